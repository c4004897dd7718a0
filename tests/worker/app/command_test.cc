#include "tests/worker/app/command_test.h"

#include <fstream>

#include "worker/app/bench.h"
#include "worker/app/check.h"
#include "worker/app/command_line.h"
#include "worker/app/verify.h"

namespace abacus::test {

std::filesystem::path CommandTest::Save(const std::string& forward, const std::string& description) {
  const ModelSpec spec = SaveModel(dir_, "tested", forward, {{"weight", {6, 6}}, {"table", {8, 6}}});
  std::ofstream(spec.toml_path) << "name = \"tested\"\nfile = \"tested.pt\"\ntolerance = 1e-3\n" << description;
  return spec.toml_path;
}

std::filesystem::path CommandTest::Save(const std::string& forward) {
  return Save(forward, R"(
[buckets]
batch = [1, 2, 4]
[[inputs]]
name = "x"
dtype = "float32"
shape = ["batch", 6]
[[outputs]]
name = "y"
dtype = "float32"
shape = ["batch", 6]
)");
}

int CommandTest::Run(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"abacus-worker"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  WorkerCommands commands;
  commands.verify = RunVerify;
  commands.check = RunCheck;
  commands.bench = RunBench;
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int exit_code = RunCommandLine(static_cast<int>(argv.size()), argv.data(), commands);
  output_ = ::testing::internal::GetCapturedStdout();
  errors_ = ::testing::internal::GetCapturedStderr();
  return exit_code;
}

}  // namespace abacus::test
