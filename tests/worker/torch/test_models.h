// Small TorchScript models defined in source text, and the memory of a job to run them with.
#ifndef ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_
#define ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <cstddef>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "models/model_spec.h"
#include "worker/bucket_plan.h"
#include "worker/model_runtime.h"

namespace abacus::test {

// A folder that is removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A module with an untrained weight for each named shape (normal values, the same every time) and forward() as given.
torch::jit::Module MakeModule(const std::string& forward,
                              const std::vector<std::pair<std::string, std::vector<int64_t>>>& weights = {});

// Saves `module` as NAME.pt and returns a spec for it with batches 1, 2 and 4; inputs and outputs are yet to be added.
ModelSpec SaveModel(const TempDir& dir, const std::string& name, const torch::jit::Module& module);

TensorSpec FloatTensor(const std::string& name, Shape dims);
TensorSpec IntTensor(const std::string& name, Shape dims, IntRange range);

// A model, its spec and what it is there for.
struct TestModel {
  const char* name;
  ModelSpec (*make)(const TempDir& dir);

  friend void PrintTo(const TestModel& model, std::ostream* out) { *out << model.name; }
};
// Models whose operators have no data-dependent control flow: they can be captured in a CUDA graph.
std::vector<TestModel> StraightLineModels();
// The above, and models with branches, loops, tuples and lists.
std::vector<TestModel> AllModels();

// One job: inputs made from `seed`, outputs filled with a pattern until a run writes them.
class Job {
 public:
  Job(const ModelSpec& spec, uint32_t bucket, uint64_t seed);
  JobTensors tensors() const { return {input_pointers_, output_pointers_}; }
  void ClearOutputs();
  const std::vector<std::vector<std::byte>>& inputs() const { return inputs_; }
  const std::vector<std::vector<std::byte>>& outputs() const { return outputs_; }
  std::vector<std::vector<std::byte>>& mutable_inputs() { return inputs_; }

 private:
  std::vector<std::vector<std::byte>> inputs_;
  std::vector<std::vector<std::byte>> outputs_;
  std::vector<const std::byte*> input_pointers_;
  std::vector<std::byte*> output_pointers_;
};

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_
