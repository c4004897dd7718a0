// ModelSpec: what NAME.toml says about a model file NAME.pt, and the shapes and byte layouts that follow from it.
//
// The controller validates queries against it, the worker lays tensors out by it, so both read the same text through
// this code. Example:
//
//   name = "minilm"
//   file = "minilm.pt"            # TorchScript, relative to this TOML; default NAME.pt
//   tolerance = 1e-3              # largest accepted |optimised - plain| / max|plain| at load
//   batchable = true              # false: rows of a batch depend on each other, or there is no batch dimension. A
//                                 # query then has exactly the batch size of a bucket and never shares a batch
//   [buckets]                     # a query is padded to the smallest bucket that holds it
//   batch = [1, 2, 4]
//   sequence = [16, 32]           # only for models with a "sequence" dimension
//   sequence_padding = "harmless" # what padding along the sequence does to the outputs: "harmless" nothing, which was
//                                 # verified (default); "allowed" something, which the user accepted; "exact"
//                                 # something, so only the lengths of the buckets are served
//   [[inputs]]
//   name = "input_ids"
//   dtype = "int64"
//   shape = ["batch", "sequence"] # numbers, or the symbols "batch" and "sequence"
//   range = [0, 30521]            # allowed values, checked before a query is accepted. [1, "sequence"]: up to the
//                                 # query's own length. Of float inputs finite numbers, [0.01, 1.0]: NaN and Inf are
//                                 # outside, and a bound counts as the nearest value of the input's type
//   pad = 0                       # value of padding elements along the sequence, integer inputs only
//   [[outputs]]
//   name = "embedding"
//   dtype = "float32"
//   shape = ["batch", 384]
//   [[libraries]]                 # optional: libraries of operators, opened before the model is loaded
//   file = "ops.so"               # relative to this TOML, as `file`
//   sha256 = "..."                # of its bytes, 64 hexadecimal digits
//   [fake]                        # optional: timings for the fake runtime, see worker/runtime/fake_runtime.h
//
// Thread rule: immutable after parsing. Errors name file, line and key.
#ifndef ABACUS_MODELS_MODEL_SPEC_H_
#define ABACUS_MODELS_MODEL_SPEC_H_

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "shm/layout.h"

namespace abacus {

// Dimensions that stand for a symbol in TensorSpec::dims. Anything >= 0 is a fixed size.
inline constexpr int64_t kBatchDim = -1;
inline constexpr int64_t kSequenceDim = -2;

inline constexpr size_t kMaxTensorsPerSide = 16;  // inputs of a model, and outputs

inline constexpr size_t kMaxLibraries = 16;  // libraries of operators that a model names

struct IntRange {  // bounds are inclusive
  int64_t low = 0;
  int64_t high = 0;
  bool to_sequence = false;  // the highest value is the length of the query's sequence; `high` is the longest bucket's
  friend bool operator==(const IntRange&, const IntRange&) = default;
};

struct FloatRange {  // finite, bounds are inclusive
  double low = 0;
  double high = 0;
  friend bool operator==(const FloatRange&, const FloatRange&) = default;
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape dims;                     // fixed sizes, kBatchDim (first dimension only) or kSequenceDim (at most once)
  std::optional<IntRange> range;  // integer inputs
  int64_t pad = 0;                // integer inputs; what pads float inputs: FillPadding, tensor_layout.h
  std::optional<FloatRange> float_range = {};  // float inputs
};

struct Bucket {
  int64_t batch = 1;
  int64_t sequence = 0;  // 0: the model has no sequence dimension
};

// Timings of the fake runtime; all times microseconds.
struct FakeTiming {
  uint32_t operators = 16;
  double base_us = 0;          // per whole pass
  double per_row_us = 0;       // added per batch row
  double load_us = 0;          // time that loading takes
  int64_t die_on_value = -1;   // scripted fault: exit when the first input element has this value (int64 inputs)
  int64_t fail_on_value = -1;  // scripted fault: report an error instead
  int64_t hang_on_value = -1;  // scripted fault: stop responding
};

// What padding along the sequence does to the outputs.
enum class SequencePadding : uint8_t {
  kHarmless,  // nothing: verified when the model was exported
  kAllowed,   // something, and the user accepted that
  kExact,     // something: only the lengths of the buckets are served
};
inline constexpr std::array<std::string_view, 3> kSequencePaddingNames = {"harmless", "allowed", "exact"};
inline constexpr std::string_view SequencePaddingName(SequencePadding padding) {
  return kSequencePaddingNames[static_cast<size_t>(padding)];
}

// A library of operators, opened before the model is loaded.
struct OperatorLibrary {
  std::filesystem::path file;       // beside or below the TOML
  std::string sha256;               // of its bytes, 64 lower-case hexadecimal digits
  std::filesystem::path open_path;  // what to open for `file`, as ModelSpec::open_path
};

struct ModelSpec {
  std::string name;
  std::string text;  // the description itself, as parsed
  std::filesystem::path toml_path;
  std::filesystem::path file;       // beside or below the TOML
  std::filesystem::path open_path;  // what to open for `file`: the same, or /proc/self/fd/N of a file handed over
  double tolerance = 1e-3;
  bool batchable = true;  // rows are independent; false: only the exact batch sizes, and one query a batch
  SequencePadding sequence_padding = SequencePadding::kHarmless;
  std::vector<OperatorLibrary> libraries;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<int64_t> batch_sizes;       // ascending, non-empty
  std::vector<int64_t> sequence_lengths;  // ascending; empty without a sequence dimension
  FakeTiming fake;

  bool has_sequence() const { return !sequence_lengths.empty(); }
  size_t bucket_count() const { return batch_sizes.size() * (has_sequence() ? sequence_lengths.size() : 1); }
  // Buckets are numbered batch-major: index = batch_index * sequence_count + sequence_index.
  Bucket bucket(size_t index) const;
  // Smallest bucket with at least this batch and sequence; with exactly this batch where rows depend on each other, and
  // exactly this length where padding changes the answers. nullopt when there is none.
  std::optional<uint32_t> FindBucket(int64_t batch, int64_t sequence) const;
};

// The shape of `tensor` at the given batch and sequence sizes.
inline Shape ShapeAt(const TensorSpec& tensor, int64_t batch, int64_t sequence) {
  Shape shape;
  for (const int64_t dim : tensor.dims.dims()) {
    shape.push_back(dim == kBatchDim ? batch : dim == kSequenceDim ? sequence : dim);
  }
  return shape;
}

// Names of its dimensions: "batch", "sequence" or the size.
std::vector<std::string> DimNames(const TensorSpec& tensor);

// Reads NAME.toml. Checks names, dtypes, shapes, ranges, buckets (at most kMaxBuckets), libraries and unknown keys;
// does not require that the files exist (who opens them reports that).
Result<ModelSpec> LoadModelSpec(const std::filesystem::path& toml_path);
// The same from text; `toml_path` names the source in errors and anchors `file`.
Result<ModelSpec> ParseModelSpec(std::string_view text, const std::filesystem::path& toml_path);

}  // namespace abacus

#endif  // ABACUS_MODELS_MODEL_SPEC_H_
