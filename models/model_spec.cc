#include "models/model_spec.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

#include "models/tensor_layout.h"
#include "models/toml_reader.h"

namespace abacus {

namespace {

constexpr size_t kMaxModelNameBytes = 63;  // with its NUL it fits ServiceBlock::name
constexpr size_t kMaxTensorNameBytes = 128;
constexpr int64_t kMaxDim = int64_t{1} << 31;
constexpr int64_t kMaxBatch = 65536;
constexpr int64_t kMaxSequence = 1 << 20;
constexpr uint64_t kMaxBlockBytes = uint64_t{1} << 40;
constexpr double kMaxFakeUs = 1e9;
constexpr int64_t kMaxFakeOperators = 100'000;
constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();
constexpr int64_t kInt64Min = std::numeric_limits<int64_t>::min();

// Values that an integer dtype can hold.
IntRange LimitsOf(DType dtype) {
  if (dtype == DType::kBool) return {0, 1};
  if (dtype == DType::kUInt8) return {0, 255};
  const size_t bits = 8 * DTypeBytes(dtype);
  if (bits == 64) return {kInt64Min, kInt64Max};
  return {-(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1};
}

bool Uses(const TensorSpec& tensor, int64_t symbol) {
  const auto dims = tensor.dims.dims();
  return std::find(dims.begin(), dims.end(), symbol) != dims.end();
}

bool AnyUses(const std::vector<TensorSpec>& tensors, int64_t symbol) {
  return std::any_of(tensors.begin(), tensors.end(), [symbol](const TensorSpec& t) { return Uses(t, symbol); });
}

void ReadShape(TableReader* reader, TensorSpec* tensor) {
  const toml::array* shape = reader->Array("shape");
  if (shape == nullptr) return;
  if (shape->size() > kMaxRank) {
    reader->Fail("shape",
                 "must have at most " + std::to_string(kMaxRank) + " dimensions, not " + std::to_string(shape->size()));
    return;
  }
  for (const toml::node& element : *shape) {
    const auto* symbol = element.as_string();
    const auto* size = element.as_integer();
    if (symbol != nullptr && symbol->get() == "batch") {
      if (tensor->dims.rank() != 0) reader->FailAt(element, "shape", "\"batch\" must be the first dimension");
      tensor->dims.push_back(kBatchDim);
    } else if (symbol != nullptr && symbol->get() == "sequence") {
      if (Uses(*tensor, kSequenceDim)) reader->FailAt(element, "shape", "\"sequence\" may stand only once");
      tensor->dims.push_back(kSequenceDim);
    } else if (size != nullptr && size->get() >= 1 && size->get() <= kMaxDim) {
      tensor->dims.push_back(size->get());
    } else {
      reader->FailAt(element, "shape",
                     "a dimension must be \"batch\", \"sequence\" or an integer from 1 to " + std::to_string(kMaxDim) +
                         ", not " + DescribeNode(element));
    }
  }
}

void ReadRange(TableReader* reader, TensorSpec* tensor) {
  const toml::array* range = reader->Array("range");
  if (range == nullptr || !reader->has("dtype")) return;
  if (!InfoOf(tensor->dtype).integer) {
    reader->Fail("range", "is only for integer inputs; this one is " + std::string(DTypeName(tensor->dtype)));
    return;
  }
  const IntRange limits = LimitsOf(tensor->dtype);
  const auto* low = range->size() == 2 ? (*range)[0].as_integer() : nullptr;
  const auto* high = range->size() == 2 ? (*range)[1].as_integer() : nullptr;
  if (low == nullptr || high == nullptr || low->get() > high->get() || low->get() < limits.low ||
      high->get() > limits.high) {
    reader->Fail("range", "must be [lowest, highest], two ascending integers from " + std::to_string(limits.low) +
                              " to " + std::to_string(limits.high));
    return;
  }
  tensor->range = IntRange{low->get(), high->get()};
}

// Padding reaches the model, so its value must be one that the model accepts.
void ReadPad(TableReader* reader, TensorSpec* tensor) {
  const bool integer = InfoOf(tensor->dtype).integer;
  const IntRange limits = integer ? tensor->range.value_or(LimitsOf(tensor->dtype)) : IntRange{kInt64Min, kInt64Max};
  if (reader->Integer("pad", limits.low, limits.high, &tensor->pad)) {
    if (!Uses(*tensor, kSequenceDim)) reader->Fail("pad", "is only for inputs with a \"sequence\" dimension");
  } else if (Uses(*tensor, kSequenceDim) && (limits.low > 0 || limits.high < 0)) {
    reader->Require("pad", "its default, 0, is outside the range");
  }
}

Result<TensorSpec> ReadTensor(TableReader reader, bool is_input, std::set<std::string>* names) {
  static constexpr auto kDTypeNames = [] {
    std::array<std::string_view, kDTypes.size()> result;
    for (size_t i = 0; i < kDTypes.size(); ++i) result[i] = kDTypes[i].name;
    return result;
  }();
  TensorSpec tensor;
  if (reader.Name("name", NameKind::kTensor, kMaxTensorNameBytes, &tensor.name) && !names->insert(tensor.name).second) {
    reader.Fail("name", Quoted(tensor.name) + " is already the name of another tensor of this list");
  }
  reader.Require("name", "requests and replies name their tensors by it");
  size_t dtype = 0;
  if (reader.OneOf("dtype", kDTypeNames, &dtype)) tensor.dtype = static_cast<DType>(dtype);
  reader.Require("dtype", "for example dtype = \"float32\"");
  ReadShape(&reader, &tensor);
  reader.Require("shape", "for example shape = [\"batch\", 3, 224, 224]");
  if (is_input) {
    ReadRange(&reader, &tensor);
    ReadPad(&reader, &tensor);
  }
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  return tensor;
}

Status ReadTensors(TableReader* root, std::string_view key, bool is_input, std::vector<TensorSpec>* out) {
  std::set<std::string> names;
  for (TableReader& reader : root->Tables(key, kMaxTensorsPerSide)) {
    Result<TensorSpec> tensor = ReadTensor(std::move(reader), is_input, &names);
    if (!tensor) return tensor.error();
    out->push_back(std::move(*tensor));
  }
  root->Require(key, "a model needs at least one [[" + std::string(key) + "]]");
  if (root->has(key) && out->empty()) root->Fail(key, "a model needs at least one");
  return root->failed() ? root->Finish() : Status::Ok();
}

Status ReadBuckets(TableReader reader, ModelSpec* spec) {
  const bool batch_used = AnyUses(spec->inputs, kBatchDim);
  const bool sequence_used = AnyUses(spec->inputs, kSequenceDim);
  reader.Ascending("batch", 1, kMaxBatch, &spec->batch_sizes);
  reader.Require("batch", "for example batch = [1, 2, 4]");
  if (reader.Ascending("sequence", 1, kMaxSequence, &spec->sequence_lengths) && !sequence_used) {
    reader.Fail("sequence", "no input has a \"sequence\" dimension");
  }
  if (sequence_used) reader.Require("sequence", "an input has a \"sequence\" dimension");
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  if (!batch_used && !spec->batch_sizes.empty() && spec->batch_sizes != std::vector<int64_t>{1}) {
    reader.Fail("batch", "must be [1], because no input has a \"batch\" dimension");
  }
  if (spec->bucket_count() > kMaxBuckets) {
    reader.Fail("", std::to_string(spec->bucket_count()) + " buckets (batch sizes x sequence lengths); at most " +
                        std::to_string(kMaxBuckets) + " are allowed");
  }
  return reader.Finish();
}

Status ReadFake(TableReader reader, FakeTiming* fake) {
  reader.Integer("operators", 1, kMaxFakeOperators, &fake->operators);
  reader.Number("base_us", 0, kMaxFakeUs, &fake->base_us);
  reader.Number("per_row_us", 0, kMaxFakeUs, &fake->per_row_us);
  reader.Number("load_us", 0, kMaxFakeUs, &fake->load_us);
  reader.Integer("die_on_value", -1, kInt64Max, &fake->die_on_value);
  reader.Integer("fail_on_value", -1, kInt64Max, &fake->fail_on_value);
  reader.Integer("hang_on_value", -1, kInt64Max, &fake->hang_on_value);
  return reader.Finish();
}

// The model's file lies beside or below its TOML: whoever may write one may write the other.
void ReadFile(TableReader* root, ModelSpec* spec) {
  std::string file = spec->name + ".pt";
  if (root->String("file", &file)) {
    const std::filesystem::path relative(file);
    const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
    if (relative.is_absolute() || climbs) {
      root->Fail("file", "must be relative to this file's folder and stay inside it, not " + Quoted(file));
    }
  }
  spec->file = (spec->toml_path.parent_path() / file).lexically_normal();
}

// Bytes of a tensor rounded up to the alignment; nullopt when they exceed kMaxBlockBytes.
std::optional<uint64_t> PaddedBytes(const TensorSpec& tensor, const Bucket& bucket) {
  const std::optional<uint64_t> elements = ShapeAt(tensor, bucket.batch, bucket.sequence).Elements();
  if (!elements || *elements > kMaxBlockBytes) return std::nullopt;
  const uint64_t bytes = *elements * DTypeBytes(tensor.dtype);
  return (bytes + kTensorAlignBytes - 1) / kTensorAlignBytes * kTensorAlignBytes;
}

// Checks that the largest bucket's block stays below kMaxBlockBytes, so that LayoutOf can never overflow.
Status CheckBlockBytes(TableReader* root, const ModelSpec& spec) {
  const Bucket largest = spec.bucket(spec.bucket_count() - 1);
  uint64_t total = 0;
  for (const auto* side : {&spec.inputs, &spec.outputs}) {
    for (const TensorSpec& tensor : *side) {
      const std::optional<uint64_t> bytes = PaddedBytes(tensor, largest);
      if (!bytes || total + *bytes >= kMaxBlockBytes) {
        root->Fail("buckets", "the tensors of the largest bucket take 1 TiB or more, at tensor " + Quoted(tensor.name));
        return root->Finish();
      }
      total += *bytes;
    }
  }
  return Status::Ok();
}

}  // namespace

Bucket ModelSpec::bucket(size_t index) const {
  if (!has_sequence()) return {.batch = batch_sizes[index], .sequence = 0};
  const size_t count = sequence_lengths.size();
  return {.batch = batch_sizes[index / count], .sequence = sequence_lengths[index % count]};
}

std::optional<uint32_t> ModelSpec::FindBucket(int64_t batch, int64_t sequence) const {
  if (batch < 1 || (has_sequence() ? sequence < 1 : sequence != 0)) return std::nullopt;
  const auto row = std::lower_bound(batch_sizes.begin(), batch_sizes.end(), batch);
  if (row == batch_sizes.end()) return std::nullopt;
  const auto row_index = static_cast<size_t>(row - batch_sizes.begin());
  if (!has_sequence()) return static_cast<uint32_t>(row_index);
  const auto column = std::lower_bound(sequence_lengths.begin(), sequence_lengths.end(), sequence);
  if (column == sequence_lengths.end()) return std::nullopt;
  const auto column_index = static_cast<size_t>(column - sequence_lengths.begin());
  return static_cast<uint32_t>(row_index * sequence_lengths.size() + column_index);
}

std::vector<std::string> DimNames(const TensorSpec& tensor) {
  std::vector<std::string> names;
  for (const int64_t dim : tensor.dims.dims()) {
    names.push_back(dim == kBatchDim ? "batch" : dim == kSequenceDim ? "sequence" : std::to_string(dim));
  }
  return names;
}

Result<ModelSpec> ParseModelSpec(std::string_view text, const std::filesystem::path& toml_path) {
  const std::string source = toml_path.string();
  Result<toml::table> document = ParseToml(text, source);
  if (!document) return Error(document.error());

  ModelSpec spec;
  spec.toml_path = std::filesystem::absolute(toml_path).lexically_normal();
  TableReader root(&*document, "", source);
  root.Name("name", NameKind::kService, kMaxModelNameBytes, &spec.name);
  root.Require("name", "for example name = \"minilm\"");
  ReadFile(&root, &spec);
  root.Number("tolerance", 0, 1, &spec.tolerance);

  ABACUS_RETURN_IF_ERROR(ReadTensors(&root, "inputs", /*is_input=*/true, &spec.inputs));
  ABACUS_RETURN_IF_ERROR(ReadTensors(&root, "outputs", /*is_input=*/false, &spec.outputs));
  TableReader buckets = root.Table("buckets");
  TableReader fake = root.Table("fake");
  root.Require("buckets", "for example [buckets] with batch = [1, 2, 4]");
  ABACUS_RETURN_IF_ERROR(root.Finish());

  for (const auto& [symbol, name] : {std::pair{kBatchDim, "batch"}, std::pair{kSequenceDim, "sequence"}}) {
    if (AnyUses(spec.outputs, symbol) && !AnyUses(spec.inputs, symbol)) {
      root.Fail("outputs", "an output has a \"" + std::string(name) + "\" dimension but no input has");
    }
  }
  ABACUS_RETURN_IF_ERROR(root.Finish());
  ABACUS_RETURN_IF_ERROR(ReadBuckets(std::move(buckets), &spec));
  ABACUS_RETURN_IF_ERROR(ReadFake(std::move(fake), &spec.fake));
  ABACUS_RETURN_IF_ERROR(CheckBlockBytes(&root, spec));
  return spec;
}

Result<ModelSpec> LoadModelSpec(const std::filesystem::path& toml_path) {
  const Result<std::string> text = ReadTomlFile(toml_path);
  if (!text) return Error(text.error());
  return ParseModelSpec(*text, toml_path);
}

}  // namespace abacus
