#include "models/model_spec.h"

#include <algorithm>
#include <array>
#include <cmath>
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
constexpr size_t kSha256Digits = 64;
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

void ReadIntRange(TableReader* reader, const toml::array& range, const std::vector<int64_t>& sequence_lengths,
                  TensorSpec* tensor) {
  const IntRange limits = LimitsOf(tensor->dtype);
  const auto* low = range.size() == 2 ? range[0].as_integer() : nullptr;
  const auto* high = range.size() == 2 ? range[1].as_integer() : nullptr;
  const auto* symbol = range.size() == 2 ? range[1].as_string() : nullptr;
  if (low != nullptr && symbol != nullptr && symbol->get() == "sequence") {
    if (sequence_lengths.empty()) {
      reader->Fail("range", "\"sequence\" is the length of the query's sequence, but [buckets] has no sequence");
    } else if (low->get() < limits.low || low->get() > sequence_lengths.front()) {
      reader->Fail("range", "its lowest value must be from " + std::to_string(limits.low) +
                                " to the shortest sequence of [buckets], " + std::to_string(sequence_lengths.front()) +
                                ", not " + std::to_string(low->get()));
    } else {
      tensor->range = IntRange{low->get(), std::min(sequence_lengths.back(), limits.high), /*to_sequence=*/true};
    }
    return;
  }
  if (low == nullptr || high == nullptr || low->get() > high->get() || low->get() < limits.low ||
      high->get() > limits.high) {
    reader->Fail("range", "must be [lowest, highest], two ascending integers from " + std::to_string(limits.low) +
                              " to " + std::to_string(limits.high) +
                              ", or [lowest, \"sequence\"] for values up to the query's own sequence length");
    return;
  }
  tensor->range = IntRange{low->get(), high->get()};
}

void ReadFloatRange(TableReader* reader, const toml::array& range, TensorSpec* tensor) {
  const auto low = range.size() == 2 ? range[0].value<double>() : std::nullopt;
  const auto high = range.size() == 2 ? range[1].value<double>() : std::nullopt;
  if (low && high && std::isfinite(*low) && std::isfinite(*high) && *low <= *high) {
    tensor->float_range = FloatRange{*low, *high};
  } else {
    reader->Fail("range", "must be [lowest, highest], two ascending finite numbers");
  }
}

void ReadRange(TableReader* reader, const std::vector<int64_t>& sequence_lengths, TensorSpec* tensor) {
  const toml::array* range = reader->Array("range");
  if (range == nullptr || !reader->has("dtype")) return;
  if (InfoOf(tensor->dtype).integer) {
    ReadIntRange(reader, *range, sequence_lengths, tensor);
  } else {
    ReadFloatRange(reader, *range, tensor);
  }
}

// Padding reaches the model, so its value must be one that the model accepts, in every bucket.
void ReadPad(TableReader* reader, const std::vector<int64_t>& sequence_lengths, TensorSpec* tensor) {
  if (!InfoOf(tensor->dtype).integer) {
    if (reader->has("pad")) reader->Fail("pad", "is only for integer inputs; float inputs are padded with zeros");
    return;
  }
  IntRange limits = tensor->range.value_or(LimitsOf(tensor->dtype));
  if (limits.to_sequence) limits.high = std::min(limits.high, sequence_lengths.front());
  if (reader->Integer("pad", limits.low, limits.high, &tensor->pad)) {
    if (!Uses(*tensor, kSequenceDim)) reader->Fail("pad", "is only for inputs with a \"sequence\" dimension");
  } else if (Uses(*tensor, kSequenceDim) && (limits.low > 0 || limits.high < 0)) {
    reader->Require("pad", "its default, 0, is outside the range");
  }
}

Result<TensorSpec> ReadTensor(TableReader reader, bool is_input, const std::vector<int64_t>& sequence_lengths,
                              std::set<std::string>* names) {
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
    ReadRange(&reader, sequence_lengths, &tensor);
    ReadPad(&reader, sequence_lengths, &tensor);
  }
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  return tensor;
}

Status ReadTensors(TableReader* root, std::string_view key, bool is_input, const std::vector<int64_t>& sequence_lengths,
                   std::vector<TensorSpec>* out) {
  std::set<std::string> names;
  for (TableReader& reader : root->Tables(key, kMaxTensorsPerSide)) {
    Result<TensorSpec> tensor = ReadTensor(std::move(reader), is_input, sequence_lengths, &names);
    if (!tensor) return tensor.error();
    out->push_back(std::move(*tensor));
  }
  root->Require(key, "a model needs at least one [[" + std::string(key) + "]]");
  if (root->has(key) && out->empty()) root->Fail(key, "a model needs at least one");
  return root->failed() ? root->Finish() : Status::Ok();
}

// Its errors wait for CheckBuckets.
void ReadBuckets(TableReader* reader, ModelSpec* spec) {
  reader->Ascending("batch", 1, kMaxBatch, &spec->batch_sizes);
  reader->Require("batch", "for example batch = [1, 2, 4]");
  reader->Ascending("sequence", 1, kMaxSequence, &spec->sequence_lengths);
  size_t padding = 0;
  if (reader->OneOf("sequence_padding", kSequencePaddingNames, &padding)) {
    spec->sequence_padding = static_cast<SequencePadding>(padding);
  }
}

Status CheckBuckets(TableReader reader, const ModelSpec& spec) {
  const bool sequence_used = AnyUses(spec.inputs, kSequenceDim);
  for (const char* key : {"sequence", "sequence_padding"}) {
    if (reader.has(key) && !sequence_used) reader.Fail(key, "no input has a \"sequence\" dimension");
  }
  if (sequence_used) reader.Require("sequence", "an input has a \"sequence\" dimension");
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  if (!AnyUses(spec.inputs, kBatchDim) && spec.batch_sizes != std::vector<int64_t>{1}) {
    reader.Fail("batch", "must be [1], because no input has a \"batch\" dimension");
  }
  if (spec.bucket_count() > kMaxBuckets) {
    reader.Fail("", std::to_string(spec.bucket_count()) + " buckets (batch sizes x sequence lengths); at most " +
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

// A file of the model lies beside or below its TOML: whoever may write one may write the other.
bool ReadFile(TableReader* reader, const std::filesystem::path& folder, std::filesystem::path* out) {
  std::string file;
  if (!reader->String("file", &file)) return false;
  const std::filesystem::path relative(file);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (relative.is_absolute() || climbs) {
    reader->Fail("file", "must be relative to this file's folder and stay inside it, not " + Quoted(file));
  }
  *out = (folder / relative).lexically_normal();
  return true;
}

void ReadSha256(TableReader* reader, std::string* out) {
  if (!reader->String("sha256", out)) return;
  if (out->size() != kSha256Digits || out->find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
    reader->Fail("sha256", "must be 64 hexadecimal digits, as sha256sum prints them, not " + Quoted(*out));
  }
  for (char& digit : *out) {
    if (digit >= 'A' && digit <= 'F') digit = static_cast<char>(digit - 'A' + 'a');
  }
}

Status ReadLibraries(TableReader* root, ModelSpec* spec) {
  for (TableReader& reader : root->Tables("libraries", kMaxLibraries)) {
    OperatorLibrary library;
    ReadFile(&reader, spec->toml_path.parent_path(), &library.file);
    reader.Require("file", "for example file = \"ops.so\"");
    ReadSha256(&reader, &library.sha256);
    reader.Require("sha256", "the digest of the library that the model was exported with");
    for (const OperatorLibrary& other : spec->libraries) {
      if (other.file == library.file) reader.Fail("file", Quoted(library.file.string()) + " is listed twice");
    }
    ABACUS_RETURN_IF_ERROR(reader.Finish());
    library.open_path = library.file;
    spec->libraries.push_back(std::move(library));
  }
  return root->failed() ? root->Finish() : Status::Ok();
}

// Bytes of a tensor rounded up to the alignment; nullopt when they exceed kMaxBlockBytes.
std::optional<uint64_t> PaddedBytes(const TensorSpec& tensor, const Bucket& bucket) {
  const std::optional<uint64_t> elements = ShapeAt(tensor, bucket.batch, bucket.sequence).Elements();
  if (!elements || *elements > kMaxBlockBytes) return std::nullopt;
  return TensorAligned(*elements * DTypeBytes(tensor.dtype));
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

// Index of the first size that is at least `size`, or that is `size` where only that will do.
std::optional<size_t> SmallestThatHolds(const std::vector<int64_t>& sizes, int64_t size, bool exact) {
  const auto found = std::lower_bound(sizes.begin(), sizes.end(), size);
  if (found == sizes.end() || (exact && *found != size)) return std::nullopt;
  return static_cast<size_t>(found - sizes.begin());
}

}  // namespace

Bucket ModelSpec::bucket(size_t index) const {
  if (!has_sequence()) return {.batch = batch_sizes[index], .sequence = 0};
  const size_t count = sequence_lengths.size();
  return {.batch = batch_sizes[index / count], .sequence = sequence_lengths[index % count]};
}

std::optional<uint32_t> ModelSpec::FindBucket(int64_t batch, int64_t sequence) const {
  if (batch < 1 || (has_sequence() ? sequence < 1 : sequence != 0)) return std::nullopt;
  const std::optional<size_t> row = SmallestThatHolds(batch_sizes, batch, /*exact=*/!batchable);
  if (!row) return std::nullopt;
  if (!has_sequence()) return static_cast<uint32_t>(*row);
  const std::optional<size_t> column =
      SmallestThatHolds(sequence_lengths, sequence, sequence_padding == SequencePadding::kExact);
  if (!column) return std::nullopt;
  return static_cast<uint32_t>(*row * sequence_lengths.size() + *column);
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
  spec.text = text;
  spec.toml_path = std::filesystem::absolute(toml_path).lexically_normal();
  TableReader root(&*document, "", source);
  root.Name("name", NameKind::kService, kMaxModelNameBytes, &spec.name);
  root.Require("name", "for example name = \"minilm\"");
  const std::filesystem::path folder = spec.toml_path.parent_path();
  if (!ReadFile(&root, folder, &spec.file)) spec.file = folder / (spec.name + ".pt");
  spec.open_path = spec.file;
  root.Number("tolerance", 0, 1, &spec.tolerance);
  root.Bool("batchable", &spec.batchable);

  TableReader buckets = root.Table("buckets");
  TableReader fake = root.Table("fake");
  ReadBuckets(&buckets, &spec);
  ABACUS_RETURN_IF_ERROR(ReadTensors(&root, "inputs", /*is_input=*/true, spec.sequence_lengths, &spec.inputs));
  ABACUS_RETURN_IF_ERROR(ReadTensors(&root, "outputs", /*is_input=*/false, {}, &spec.outputs));
  ABACUS_RETURN_IF_ERROR(ReadLibraries(&root, &spec));
  root.Require("buckets", "for example [buckets] with batch = [1, 2, 4]");
  ABACUS_RETURN_IF_ERROR(root.Finish());

  for (const auto& [symbol, name] : {std::pair{kBatchDim, "batch"}, std::pair{kSequenceDim, "sequence"}}) {
    if (AnyUses(spec.outputs, symbol) && !AnyUses(spec.inputs, symbol)) {
      root.Fail("outputs", "an output has a \"" + std::string(name) + "\" dimension but no input has");
    }
  }
  ABACUS_RETURN_IF_ERROR(root.Finish());
  ABACUS_RETURN_IF_ERROR(CheckBuckets(std::move(buckets), spec));
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
