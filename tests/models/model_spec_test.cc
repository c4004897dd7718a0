#include "models/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "models/tensor_layout.h"

namespace abacus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Line numbers in the tests below count from the line after R"(.
constexpr std::string_view kText = R"(name = "minilm"
file = "minilm.pt"
tolerance = 1e-3
[buckets]
batch = [1, 2, 4]
sequence = [16, 32]
[[inputs]]
name = "input_ids"
dtype = "int64"
shape = ["batch", "sequence"]
range = [0, 30521]
pad = 0
[[inputs]]
name = "image"
dtype = "float32"
shape = ["batch", 3, 5]
[[outputs]]
name = "embedding"
dtype = "float32"
shape = ["batch", 384]
[fake]
operators = 8
base_us = 10
per_row_us = 2.5
load_us = 100
die_on_value = 1
fail_on_value = 2
hang_on_value = 3
)";

Result<ModelSpec> Parse(std::string_view text) { return ParseModelSpec(text, "/models/m.toml"); }

ModelSpec Valid(std::string_view text = kText) {
  Result<ModelSpec> spec = Parse(text);
  EXPECT_TRUE(spec) << spec.error().message();
  return spec.value_or(ModelSpec{});
}

// kText with its line number `line` replaced.
std::string WithLine(size_t line, std::string_view replacement) {
  std::string result;
  size_t begin = 0;
  for (size_t number = 1; begin < kText.size(); ++number) {
    const size_t end = kText.find('\n', begin);
    result += number == line ? replacement : kText.substr(begin, end - begin);
    result += '\n';
    begin = end + 1;
  }
  return result;
}

TEST(ModelSpecTest, ReadsEveryKey) {
  const ModelSpec spec = Valid();
  EXPECT_EQ(spec.name, "minilm");
  EXPECT_EQ(spec.toml_path, "/models/m.toml");
  EXPECT_EQ(spec.file, "/models/minilm.pt");
  EXPECT_EQ(spec.tolerance, 1e-3);
  EXPECT_THAT(spec.batch_sizes, ElementsAre(1, 2, 4));
  EXPECT_THAT(spec.sequence_lengths, ElementsAre(16, 32));
  ASSERT_EQ(spec.inputs.size(), 2u);
  EXPECT_EQ(spec.inputs[0].name, "input_ids");
  EXPECT_EQ(spec.inputs[0].dtype, DType::kInt64);
  EXPECT_EQ(spec.inputs[0].dims, (Shape{kBatchDim, kSequenceDim}));
  ASSERT_TRUE(spec.inputs[0].range);
  EXPECT_EQ(spec.inputs[0].range->low, 0);
  EXPECT_EQ(spec.inputs[0].range->high, 30521);
  EXPECT_EQ(spec.inputs[1].dims, (Shape{kBatchDim, 3, 5}));
  EXPECT_FALSE(spec.inputs[1].range);
  ASSERT_EQ(spec.outputs.size(), 1u);
  EXPECT_EQ(spec.outputs[0].dims, (Shape{kBatchDim, 384}));
  EXPECT_EQ(spec.fake.operators, 8u);
  EXPECT_EQ(spec.fake.base_us, 10);
  EXPECT_EQ(spec.fake.per_row_us, 2.5);
  EXPECT_EQ(spec.fake.load_us, 100);
  EXPECT_EQ(spec.fake.die_on_value, 1);
  EXPECT_EQ(spec.fake.fail_on_value, 2);
  EXPECT_EQ(spec.fake.hang_on_value, 3);
}

TEST(ModelSpecTest, OptionalKeysHaveDefaults) {
  const ModelSpec spec = Valid(R"(
name = "scalar"
[buckets]
batch = [1]
[[inputs]]
name = "x"
dtype = "float32"
shape = []
[[outputs]]
name = "x"
dtype = "float32"
shape = [2]
)");
  EXPECT_EQ(spec.file, "/models/scalar.pt");
  EXPECT_EQ(spec.tolerance, 1e-3);
  EXPECT_FALSE(spec.has_sequence());
  EXPECT_EQ(spec.bucket_count(), 1u);
  EXPECT_EQ(spec.fake.die_on_value, -1);
}

TEST(ModelSpecTest, BucketsAreBatchMajor) {
  const ModelSpec spec = Valid();
  ASSERT_EQ(spec.bucket_count(), 6u);
  for (size_t i = 0; i < spec.bucket_count(); ++i) {
    const Bucket bucket = spec.bucket(i);
    EXPECT_EQ(bucket.batch, spec.batch_sizes[i / 2]);
    EXPECT_EQ(bucket.sequence, spec.sequence_lengths[i % 2]);
    EXPECT_EQ(spec.FindBucket(bucket.batch, bucket.sequence), i);
  }
}

TEST(ModelSpecTest, FindBucketTakesTheSmallestThatHolds) {
  const ModelSpec spec = Valid();
  EXPECT_EQ(spec.FindBucket(1, 1), 0u);
  EXPECT_EQ(spec.FindBucket(1, 17), 1u);
  EXPECT_EQ(spec.FindBucket(3, 16), 4u);
  EXPECT_EQ(spec.FindBucket(4, 32), 5u);
  EXPECT_EQ(spec.FindBucket(5, 16), std::nullopt);
  EXPECT_EQ(spec.FindBucket(1, 33), std::nullopt);
  EXPECT_EQ(spec.FindBucket(0, 16), std::nullopt);
  EXPECT_EQ(spec.FindBucket(1, 0), std::nullopt);
  EXPECT_EQ(spec.FindBucket(-1, -1), std::nullopt);
  EXPECT_EQ(spec.FindBucket(INT64_MAX, INT64_MAX), std::nullopt);
}

TEST(ModelSpecTest, FindBucketWithoutSequenceTakesNone) {
  ModelSpec spec = Valid();
  spec.sequence_lengths.clear();
  EXPECT_EQ(spec.FindBucket(3, 0), 2u);
  EXPECT_EQ(spec.FindBucket(3, 1), std::nullopt);
  EXPECT_EQ(spec.bucket(2).sequence, 0);
}

TEST(ModelSpecTest, ClaimsHaveDefaults) {
  const ModelSpec spec = Valid();
  EXPECT_TRUE(spec.batchable);
  EXPECT_EQ(spec.sequence_padding, SequencePadding::kHarmless);
  EXPECT_TRUE(spec.libraries.empty());
  EXPECT_EQ(spec.text, kText);
  EXPECT_EQ(spec.open_path, spec.file);
  EXPECT_FALSE(spec.inputs[1].range);
  EXPECT_FALSE(spec.inputs[1].float_range);
}

TEST(ModelSpecTest, DependentRowsTakeExactBatches) {
  const ModelSpec spec = Valid(WithLine(3, "batchable = false"));
  EXPECT_FALSE(spec.batchable);
  EXPECT_EQ(spec.FindBucket(3, 16), std::nullopt) << "not padded to 4";
  EXPECT_EQ(spec.FindBucket(4, 16), 4u);
  EXPECT_EQ(spec.FindBucket(4, 17), 5u) << "padding along the sequence is another claim";
  EXPECT_EQ(spec.FindBucket(5, 16), std::nullopt);
}

TEST(ModelSpecTest, HarmfulSequencePaddingTakesExactLengths) {
  const ModelSpec exact = Valid(WithLine(6, "sequence = [16, 32]\nsequence_padding = 'exact'"));
  EXPECT_EQ(exact.sequence_padding, SequencePadding::kExact);
  EXPECT_EQ(exact.FindBucket(1, 15), std::nullopt);
  EXPECT_EQ(exact.FindBucket(1, 17), std::nullopt);
  EXPECT_EQ(exact.FindBucket(1, 16), 0u);
  EXPECT_EQ(exact.FindBucket(3, 32), 5u) << "rows are another claim";
  for (const auto& [name, padding] :
       {std::pair{"harmless", SequencePadding::kHarmless}, std::pair{"allowed", SequencePadding::kAllowed}}) {
    const ModelSpec spec = Valid(WithLine(6, "sequence = [16, 32]\nsequence_padding = '" + std::string(name) + "'"));
    EXPECT_EQ(spec.sequence_padding, padding);
    EXPECT_EQ(SequencePaddingName(padding), name);
    EXPECT_EQ(spec.FindBucket(1, 17), 1u);
  }
}

TEST(ModelSpecTest, FloatInputsHaveRanges) {
  const auto range = [](std::string_view text) {
    return Valid(WithLine(16, "shape = ['batch', 3, 5]\nrange = " + std::string(text))).inputs[1].float_range;
  };
  EXPECT_EQ(range("[0.01, 1.0]"), (FloatRange{0.01, 1.0}));
  EXPECT_EQ(range("[0, 255]"), (FloatRange{0, 255}));
  EXPECT_EQ(range("[-1, 1e300]"), (FloatRange{-1, 1e300}));
  EXPECT_EQ(range("[2.5, 2.5]"), (FloatRange{2.5, 2.5}));
}

TEST(ModelSpecTest, ARangeMayEndAtTheSequence) {
  const ModelSpec spec = Valid(WithLine(11, "range = [0, 'sequence']"));
  EXPECT_EQ(spec.inputs[0].range, (IntRange{0, 32, /*to_sequence=*/true})) << "the longest bucket";
  EXPECT_FALSE(Valid().inputs[0].range->to_sequence);
}

constexpr std::string_view kSha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00A08";

TEST(ModelSpecTest, LibrariesLieBesideTheDescription) {
  const std::string text = std::string(kText) + "[[libraries]]\nfile = 'lib/ops.so'\nsha256 = '" +
                           std::string(kSha256) + "'\n[[libraries]]\nfile = 'more.so'\nsha256 = '" +
                           std::string(kSha256) + "'\n";
  const ModelSpec spec = Valid(text);
  ASSERT_EQ(spec.libraries.size(), 2u);
  EXPECT_EQ(spec.libraries[0].file, "/models/lib/ops.so");
  EXPECT_EQ(spec.libraries[0].open_path, "/models/lib/ops.so");
  EXPECT_EQ(spec.libraries[0].sha256, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
  EXPECT_EQ(spec.libraries[1].file, "/models/more.so");
}

TEST(ModelSpecTest, LayoutPlacesInputsThenOutputsAligned) {
  const ModelSpec spec = Valid();
  for (size_t i = 0; i < spec.bucket_count(); ++i) {
    const Bucket bucket = spec.bucket(i);
    const TensorLayout layout = LayoutOf(spec, bucket);
    ASSERT_EQ(layout.inputs.size(), 2u);
    ASSERT_EQ(layout.outputs.size(), 1u);
    EXPECT_EQ(layout.inputs[0].bytes, static_cast<uint64_t>(bucket.batch * bucket.sequence * 8));
    EXPECT_EQ(layout.inputs[1].bytes, static_cast<uint64_t>(bucket.batch * 15 * 4));
    EXPECT_EQ(layout.outputs[0].bytes, static_cast<uint64_t>(bucket.batch * 384 * 4));
    uint64_t end = 0;
    for (const TensorExtent& slot : {layout.inputs[0], layout.inputs[1], layout.outputs[0]}) {
      EXPECT_EQ(slot.offset_bytes % kTensorAlignBytes, 0u);
      EXPECT_GE(slot.offset_bytes, end);
      EXPECT_LT(slot.offset_bytes, end + kTensorAlignBytes);
      end = slot.offset_bytes + slot.bytes;
    }
    EXPECT_GE(layout.total_bytes, end);
    EXPECT_EQ(layout.total_bytes % kTensorAlignBytes, 0u);
  }
}

TEST(ModelSpecTest, ShippedFakeModelsAreValid) {
  for (const char* name : {"fake-image", "fake-text"}) {
    const Result<ModelSpec> spec =
        LoadModelSpec(std::string(ABACUS_SOURCE_DIR) + "/configs/fake/" + std::string(name) + ".toml");
    ASSERT_TRUE(spec) << spec.error().message();
    EXPECT_EQ(spec->name, name);
    EXPECT_GT(spec->fake.base_us, 0);
  }
}

TEST(ModelSpecTest, MissingFileIsNotFound) {
  const Result<ModelSpec> spec = LoadModelSpec("/nonexistent/m.toml");
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(spec.error().message(), HasSubstr("/nonexistent/m.toml"));
}

// One line of kText replaced: the error must name that line (the last one where the replacement has several) and the
// key, and say what is allowed.
struct Mutation {
  size_t line;
  std::string replacement;
  std::string key;
  std::string message;
};

void ExpectRefused(const std::vector<Mutation>& mutations) {
  for (const Mutation& mutation : mutations) {
    const Result<ModelSpec> spec = Parse(WithLine(mutation.line, mutation.replacement));
    ASSERT_FALSE(spec) << mutation.replacement;
    const auto more = std::count(mutation.replacement.begin(), mutation.replacement.end(), '\n');
    const std::string line = std::to_string(mutation.line + static_cast<size_t>(more));
    EXPECT_THAT(spec.error().message(), StartsWith("/models/m.toml:" + line + ": " + mutation.key + ": "));
    EXPECT_THAT(spec.error().message(), HasSubstr(mutation.message)) << mutation.replacement;
    EXPECT_EQ(spec.error().code(), StatusCode::kInvalidArgument);
  }
}

std::string LongShape() { return "shape = [1, 1, 1, 1, 1, 1, 1, 1, 1]"; }
std::string NinetySequences() {
  std::string text = "sequence = [1";
  for (int i = 2; i <= 22; ++i) text += ", " + std::to_string(i);
  return text + "]";
}

TEST(MutatedSpecTest, Root) {
  ExpectRefused({{1, "name = 1", "name", "must be a string"},
                 {1, "name = ''", "name", "at least one character"},
                 {1, "name = 'a/b'", "name", "letters, digits"},
                 {1, "name = '" + std::string(64, 'x') + "'", "name", "1 to 63"},
                 {1, "nam = 'm'", "nam", "did you mean \"name\"?"},
                 {2, "file = 1", "file", "must be a string"},
                 {2, "file = '/etc/passwd'", "file", "relative"},
                 {2, "file = '../x.pt'", "file", "relative"},
                 {2, "file = 'a/../../x.pt'", "file", "relative"},
                 {2, "file = \"a\\u0000b\"", "file", "must be a string"},
                 {3, "tolerance = 'x'", "tolerance", "a number from 0 to 1"},
                 {3, "tolerance = -0.1", "tolerance", "a number from 0 to 1"},
                 {3, "tolerance = 1.1", "tolerance", "a number from 0 to 1"},
                 {3, "tolerance = nan", "tolerance", "not the float nan"},
                 {3, "tolerance = inf", "tolerance", "a number from 0 to 1"},
                 {3, "tolerence = 1.0", "tolerence", "did you mean \"tolerance\"?"},
                 {4, "[bucket]", "bucket", "did you mean \"buckets\"?"},
                 {21, "[fke]", "fke", "did you mean \"fake\"?"}});
}

TEST(MutatedSpecTest, Buckets) {
  ExpectRefused({{5, "batch = 1", "buckets.batch", "must be an array"},
                 {5, "batch = []", "buckets.batch", "not empty"},
                 {5, "batch = [0, 1]", "buckets.batch", "from 1 to 65536"},
                 {5, "batch = [-1]", "buckets.batch", "from 1 to 65536"},
                 {5, "batch = [1, 65537]", "buckets.batch", "from 1 to 65536"},
                 {5, "batch = [1, 9223372036854775807]", "buckets.batch", "from 1 to 65536"},
                 {5, "batch = [2, 1]", "buckets.batch", "1 follows 2"},
                 {5, "batch = [1, 1]", "buckets.batch", "1 follows 1"},
                 {5, "batch = [1, 2.0]", "buckets.batch", "the float 2"},
                 {5, "batch = ['1']", "buckets.batch", "the string \"1\""},
                 {6, "sequence = [0]", "buckets.sequence", "from 1 to 1048576"},
                 {6, "sequence = [1048577]", "buckets.sequence", "from 1 to 1048576"},
                 {6, "sequence = true", "buckets.sequence", "must be an array"},
                 {6, "seqence = [1]", "buckets.seqence", "did you mean \"sequence\"?"}});
}

TEST(MutatedSpecTest, Tensors) {
  ExpectRefused({{8, "name = 'a b'", "inputs[0].name", "without blanks"},
                 {8, "name = '" + std::string(129, 'x') + "'", "inputs[0].name", "1 to 128"},
                 {8, "nme = 'x'", "inputs[0].nme", "did you mean \"name\"?"},
                 {14, "name = 'input_ids'", "inputs[1].name", "already the name of another tensor"},
                 {9, "dtype = 'int46'", "inputs[0].dtype", "did you mean \"int16\"?"},
                 {9, "dtype = 64", "inputs[0].dtype", "must be one of \"float32\""},
                 {10, "shape = 'batch'", "inputs[0].shape", "must be an array"},
                 {10, "shape = ['sequence', 'batch']", "inputs[0].shape", "must be the first dimension"},
                 {10, "shape = ['batch', 'batch', 'sequence']", "inputs[0].shape", "must be the first dimension"},
                 {10, "shape = ['batch', 'sequence', 'sequence']", "inputs[0].shape", "may stand only once"},
                 {10, "shape = ['Batch']", "inputs[0].shape", "must be \"batch\", \"sequence\" or an integer"},
                 {10, "shape = ['batch', 0]", "inputs[0].shape", "from 1 to 2147483648, not 0"},
                 {10, "shape = ['batch', -1]", "inputs[0].shape", "from 1 to 2147483648, not -1"},
                 {10, "shape = ['batch', 2147483649]", "inputs[0].shape", "from 1 to 2147483648"},
                 {10, "shape = ['batch', 1.5]", "inputs[0].shape", "the float 1.5"},
                 {10, LongShape(), "inputs[0].shape", "at most 8 dimensions"},
                 {11, "range = [0]", "inputs[0].range", "[lowest, highest]"},
                 {11, "range = [0, 1, 2]", "inputs[0].range", "[lowest, highest]"},
                 {11, "range = [5, 4]", "inputs[0].range", "ascending"},
                 {11, "range = [0.0, 1.0]", "inputs[0].range", "two ascending integers"},
                 {11, "range = 5", "inputs[0].range", "must be an array"},
                 {12, "pad = 30522", "inputs[0].pad", "from 0 to 30521, not 30522"},
                 {12, "pad = 'x'", "inputs[0].pad", "must be an integer"},
                 {16, "shape = ['batch', 3]\npad = 1", "inputs[1].pad", "only for integer inputs"},
                 {18, "name = 3", "outputs[0].name", "must be a string"},
                 {19, "dtype = 'complex64'", "outputs[0].dtype", "must be one of"},
                 {20, "shape = ['batch', true]", "outputs[0].shape", "not true"},
                 {20, "shape = ['batch']\nrange = [0, 1]", "outputs[0].range", "unknown key"}});
}

TEST(MutatedSpecTest, Claims) {
  ExpectRefused({{3, "batchable = 1", "batchable", "true or false"},
                 {3, "batchabel = false", "batchabel", "did you mean \"batchable\"?"},
                 {6, "sequence = [16]\nsequence_padding = 'some'", "buckets.sequence_padding", "\"harmless\""},
                 {6, "sequence = [16]\nsequence_padding = true", "buckets.sequence_padding", "must be one of"},
                 {11, "range = [0, 'batch']", "inputs[0].range", "[lowest, \"sequence\"]"},
                 {11, "range = ['sequence', 5]", "inputs[0].range", "[lowest, \"sequence\"]"},
                 {11, "range = [17, 'sequence']", "inputs[0].range", "the shortest sequence of [buckets], 16, not 17"},
                 {16, "shape = ['batch', 3]\nrange = [1.0, 0.5]", "inputs[1].range", "two ascending finite numbers"},
                 {16, "shape = ['batch', 3]\nrange = [0.5]", "inputs[1].range", "two ascending finite numbers"},
                 {16, "shape = ['batch', 3]\nrange = [nan, 1.0]", "inputs[1].range", "two ascending finite numbers"},
                 {16, "shape = ['batch', 3]\nrange = [0.0, inf]", "inputs[1].range", "two ascending finite numbers"},
                 {16, "shape = ['batch', 3]\nrange = [0.0, 'sequence']", "inputs[1].range", "finite numbers"},
                 {16, "shape = ['batch', 3]\nrange = [0.0, true]", "inputs[1].range", "finite numbers"},
                 {16, "shape = ['batch', 'sequence']\npad = 1", "inputs[1].pad", "only for integer inputs"}});
}

TEST(MutatedSpecTest, Libraries) {
  const auto refused = [](std::string_view lines, std::string_view message) {
    const Result<ModelSpec> spec = Parse(std::string(kText) + "[[libraries]]\n" + std::string(lines));
    ASSERT_FALSE(spec) << lines;
    EXPECT_THAT(spec.error().message(), StartsWith("/models/m.toml:"));
    EXPECT_THAT(spec.error().message(), HasSubstr(message)) << lines;
  };
  const std::string sha256 = "sha256 = '" + std::string(kSha256) + "'\n";
  refused("file = '/ops.so'\n" + sha256, "libraries[0].file: must be relative to this file's folder");
  refused("file = '../ops.so'\n" + sha256, "libraries[0].file: must be relative to this file's folder");
  refused("file = 'ops.so'\n", "libraries[0].sha256: is missing");
  refused(sha256, "libraries[0].file: is missing");
  refused("file = 'ops.so'\nsha256 = 'abc'\n", "libraries[0].sha256: must be 64 hexadecimal digits");
  refused("file = 'ops.so'\nsha256 = '" + std::string(64, 'g') + "'\n", "must be 64 hexadecimal digits");
  refused("file = 'ops.so'\n" + sha256 + "[[libraries]]\nfile = './ops.so'\n" + sha256,
          "libraries[1].file: \"/models/ops.so\" is listed twice");
}

TEST(MutatedSpecTest, Fake) {
  ExpectRefused({{22, "operators = 0", "fake.operators", "from 1 to 100000"},
                 {22, "operators = 100001", "fake.operators", "from 1 to 100000"},
                 {22, "operators = 1.0", "fake.operators", "must be an integer"},
                 {23, "base_us = -1", "fake.base_us", "must be a number"},
                 {23, "base_us = nan", "fake.base_us", "not the float nan"},
                 {24, "per_row_us = inf", "fake.per_row_us", "must be a number"},
                 {24, "per_row_us = '1'", "fake.per_row_us", "must be a number"},
                 {25, "load_us = 1e10", "fake.load_us", "must be a number"},
                 {26, "die_on_value = -2", "fake.die_on_value", "must be an integer"},
                 {27, "fail_on_value = '2'", "fake.fail_on_value", "must be an integer"},
                 {28, "hang_on_value = 1.5", "fake.hang_on_value", "must be an integer"},
                 {28, "hang_on = 1", "fake.hang_on", "unknown key"}});
}

// Mistakes whose error stands at another line than the mistake, or that need several lines.
void ExpectError(std::string_view text, std::string_view message) {
  const Result<ModelSpec> spec = Parse(text);
  ASSERT_FALSE(spec) << text;
  EXPECT_THAT(spec.error().message(), HasSubstr(message));
  EXPECT_THAT(spec.error().message(), StartsWith("/models/m.toml:"));
}

TEST(ModelSpecTest, SequenceBucketsGoWithSequenceDimensions) {
  ExpectError(WithLine(6, ""), ":4: buckets.sequence: is missing; an input has a \"sequence\" dimension");
  ExpectError(WithLine(10, "shape = ['batch', 7]"), "inputs[0].pad: is only for inputs with a \"sequence\"");
  std::string text = WithLine(10, "shape = ['batch', 7]");
  text.replace(text.find("pad = 0"), 7, "");
  ExpectError(text, ":6: buckets.sequence: no input has a \"sequence\" dimension");
}

TEST(ModelSpecTest, SequenceClaimsNeedASequence) {
  constexpr std::string_view kNoSequence =
      "name='m'\n[[inputs]]\nname='x'\ndtype='int8'\nshape=['batch']\nRANGE\n[[outputs]]\nname='y'\n"
      "dtype='int8'\nshape=['batch']\n[buckets]\nbatch=[1]\nPADDING\n";
  const auto with = [&](std::string_view range, std::string_view padding) {
    std::string text(kNoSequence);
    text.replace(text.find("RANGE"), 5, range);
    return text.replace(text.find("PADDING"), 7, padding);
  };
  ExpectError(with("", "sequence_padding='exact'"), "buckets.sequence_padding: no input has a \"sequence\" dimension");
  ExpectError(with("range=[0, 'sequence']", ""), ":6: inputs[0].range: \"sequence\" is the length of the query's");
}

TEST(ModelSpecTest, PadFitsTheShortestSequenceOfARangeUpToIt) {
  std::string text = WithLine(11, "range = [1, 'sequence']");
  text.replace(text.find("pad = 0"), 7, "pad = 17");
  ExpectError(text, "inputs[0].pad: must be an integer from 1 to 16, not 17");
}

TEST(ModelSpecTest, OutputsMayUseOnlySymbolsOfInputs) {
  constexpr std::string_view kFixedInput =
      "name='m'\nbuckets={batch=[1]}\n[[inputs]]\nname='x'\ndtype='int8'\nshape=[4]\n[[outputs]]\nname='y'\n"
      "dtype='int8'\n";
  ExpectError(std::string(kFixedInput) + "shape=['batch']", "outputs: an output has a \"batch\" dimension");
  ExpectError(std::string(kFixedInput) + "shape=['sequence']", "outputs: an output has a \"sequence\" dimension");
}

TEST(ModelSpecTest, BatchSizesNeedABatchDimension) {
  ExpectError(
      "name='m'\nbuckets={batch=[1, 2]}\n[[inputs]]\nname='x'\ndtype='int8'\nshape=[4]\n[[outputs]]\nname='y'\n"
      "dtype='int8'\nshape=[4]",
      ":2: buckets.batch: must be [1]");
}

TEST(ModelSpecTest, AtMostKMaxBuckets) {
  ExpectError(WithLine(6, NinetySequences()), "66 buckets (batch sizes x sequence lengths); at most 64");
}

TEST(ModelSpecTest, BlocksStayBelowOneTebibyte) {
  ExpectError(WithLine(16, "shape = ['batch', 2147483648, 2147483648]"), "take 1 TiB or more, at tensor \"image\"");
  ExpectError(WithLine(16, "shape = ['batch', 2147483648, 64]"), "take 1 TiB or more, at tensor \"image\"");
  ExpectError(WithLine(16, "shape = [2147483648, 2147483648, 2147483648, 2147483648, 2147483648]"), "1 TiB");
  // Each tensor fits, the sum does not.
  std::string text = WithLine(16, "shape = ['batch', 17179869184]");
  ExpectError(text, "from 1 to 2147483648");
  text = WithLine(16, "shape = ['batch', 8589934, 4001]");
  text.replace(text.find("shape = [\"batch\", 384]"), 22, "shape = ['batch', 8589934, 4001]");
  ExpectError(text, "take 1 TiB or more, at tensor \"embedding\"");
}

TEST(ModelSpecTest, TensorsAreBounded) {
  std::string text(kText);
  for (int i = 0; i < 15; ++i) {
    text += "[[inputs]]\nname = \"x" + std::to_string(i) + "\"\ndtype = \"int8\"\nshape = [\"batch\"]\n";
  }
  ExpectError(text, "inputs: at most 16 are allowed, there are 17");
}

TEST(ModelSpecTest, InputsAndOutputsAreRequired) {
  ExpectError("name = 'm'", "inputs: is missing");
  ExpectError("name = 'm'\ninputs = []", "inputs: a model needs at least one");
  ExpectError("name = 'm'\ninputs = [1]", "inputs: must be an array of tables");
  ExpectError("name = 'm'\ninputs = 1", "inputs: must be an array");
  ExpectError("name = 'm'\n[[inputs]]\nname = 'x'", "inputs[0].dtype: is missing");
  ExpectError("", ":1: name: is missing");
}

TEST(ModelSpecTest, PadDefaultMustBeInTheRange) {
  std::string text = WithLine(11, "range = [1, 9]");
  text.replace(text.find("pad = 0"), 7, "");
  ExpectError(text, "inputs[0].pad: is missing; its default, 0, is outside the range");
}

TEST(ModelSpecTest, RangesStayWithinTheDtype) {
  const auto with = [](std::string_view dtype, std::string_view range) {
    std::string text = WithLine(9, "dtype = '" + std::string(dtype) + "'");
    text.replace(text.find("range = [0, 30521]"), 18, "range = " + std::string(range));
    return text;
  };
  ExpectError(with("uint8", "[0, 256]"), "from 0 to 255");
  ExpectError(with("uint8", "[-1, 5]"), "from 0 to 255");
  ExpectError(with("int8", "[-129, 5]"), "from -128 to 127");
  ExpectError(with("int16", "[0, 32768]"), "from -32768 to 32767");
  ExpectError(with("int32", "[0, 2147483648]"), "from -2147483648 to 2147483647");
  ExpectError(with("bool", "[0, 2]"), "from 0 to 1");
  EXPECT_TRUE(Parse(with("bool", "[0, 1]")));
  EXPECT_TRUE(Parse(with("int8", "[-128, 127]")));
  EXPECT_TRUE(Parse(with("int64", "[-9223372036854775808, 9223372036854775807]")));
}

}  // namespace
}  // namespace abacus
