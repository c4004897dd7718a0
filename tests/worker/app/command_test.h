// What tests of the worker's commands share: a model file with its description, and a command line to run.
#ifndef ABACUS_TESTS_WORKER_APP_COMMAND_TEST_H_
#define ABACUS_TESTS_WORKER_APP_COMMAND_TEST_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/worker/torch/test_models.h"

namespace abacus::test {

class CommandTest : public ::testing::Test {
 protected:
  // Saves a model with "weight" [6, 6] and "table" [8, 6], and its description, which begins with name, file and
  // tolerance and goes on with `description`. Returns the path of the description.
  std::filesystem::path Save(const std::string& forward, const std::string& description);
  // The same with one float input x and output y of shape [batch, 6], and batches 1, 2 and 4.
  std::filesystem::path Save(const std::string& forward);

  // Runs `abacus-worker ARGUMENTS` in this process. Returns the exit code.
  int Run(const std::vector<std::string>& arguments);

  TempDir dir_;
  std::string output_;  // of the last run, standard output
  std::string errors_;  // standard error
};

inline constexpr const char* kSound = R"(
def forward(self, x):
    y = torch.tanh(torch.matmul(x, self.weight))
    return torch.relu(y + x) * y
)";

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_APP_COMMAND_TEST_H_
