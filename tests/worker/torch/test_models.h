// Small TorchScript models defined in source text, and the memory of a job to run them with. Free of LibTorch headers.
#ifndef ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_
#define ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "models/model_spec.h"
#include "worker/runtime/model_runtime.h"

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

// Names and shapes of weights: untrained, normal values, the same every time.
using Weights = std::vector<std::pair<std::string, std::vector<int64_t>>>;

// Saves a module with these weights and forward() as given as NAME.pt. Returns a spec for it with batches 1, 2 and 4;
// inputs and outputs are yet to be added.
ModelSpec SaveModel(const TempDir& dir, const std::string& name, const std::string& forward,
                    const Weights& weights = {});

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

// A model whose rows are independent and whose outputs do not depend on padding: inputs "x" and "ids", of which "ids"
// has a sequence; batches 1, 2 and 4, sequences 4 and 8.
ModelSpec MakeRowwise(const TempDir& dir);
// A model whose rows are independent to the last bit, with small rows and rows of many KiB, sequences in every place,
// and an input without rows where `shared`: batches 1, 4 and 16, sequences 4 and 8.
ModelSpec MakeMixedRows(const TempDir& dir, bool shared = false);
// A model of two inputs whose outputs depend on everything in its bucket: the largest magnitude of "x", `width` floats,
// and the sum of "ids", `width` / 8 for each position, which are padded with 3.
ModelSpec MakeWholeBatch(const TempDir& dir, int64_t width = 8);

// One query, and a job that consists of it: inputs made from `seed`, outputs filled with a pattern until a run writes
// them.
class Job {
 public:
  // Fills the bucket.
  Job(const ModelSpec& spec, uint32_t bucket, uint64_t seed);
  Job(const ModelSpec& spec, int64_t rows, int64_t sequence, uint64_t seed);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const QueryTensors& query() const { return query_; }
  JobTensors tensors() const { return {&query_, 1}; }
  void ClearOutputs();
  const std::vector<std::vector<std::byte>>& inputs() const { return inputs_; }
  const std::vector<std::vector<std::byte>>& outputs() const { return outputs_; }
  std::vector<std::vector<std::byte>>& mutable_inputs() { return inputs_; }

 private:
  std::vector<std::vector<std::byte>> inputs_;
  std::vector<std::vector<std::byte>> outputs_;
  std::vector<const std::byte*> input_pointers_;
  std::vector<std::byte*> output_pointers_;
  QueryTensors query_;
};

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_TORCH_TEST_MODELS_H_
