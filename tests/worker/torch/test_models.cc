#include "tests/worker/torch/test_models.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "tests/worker/torch/test_modules.h"
#include "worker/torch/bucket_plan.h"

namespace abacus::test {
namespace {

ModelSpec MakeConvolution(const TempDir& dir) {
  ModelSpec spec =
      SaveModel(dir, "convolution",
                R"(
def forward(self, image):
    x = torch.relu_(torch.conv2d(image, self.first, None, [1, 1], [1, 1]))
    y = torch.conv2d(x, self.second, None, [1, 1], [1, 1])
    z = torch.conv2d(torch.relu_(y + x), self.third, None, [2, 2], [1, 1])
    pooled = torch.adaptive_avg_pool2d(torch.cat([z, torch.sigmoid(z)], 1), [1, 1])
    return torch.matmul(torch.flatten(pooled, 1), self.head)
)",
                {{"first", {8, 3, 3, 3}}, {"second", {8, 8, 3, 3}}, {"third", {8, 8, 3, 3}}, {"head", {16, 5}}});
  spec.inputs = {FloatTensor("image", {kBatchDim, 3, 12, 12})};
  spec.outputs = {FloatTensor("logits", {kBatchDim, 5})};
  return spec;
}

// Several inputs and outputs, integer input, a value used by several later operators.
ModelSpec MakeMulti(const TempDir& dir) {
  ModelSpec spec = SaveModel(dir, "multi",
                             R"(
def forward(self, x, ids):
    hidden = torch.matmul(x, self.weight)
    tokens = torch.embedding(self.table, ids) + hidden.unsqueeze(1)
    scaled = torch.tanh(tokens) * hidden.unsqueeze(1)
    counts = torch.sum(ids, 1)
    return scaled, torch.sum(scaled, 1) + hidden, counts
)",
                             {{"weight", {6, 8}}, {"table", {50, 8}}});
  spec.sequence_lengths = {4, 8};
  spec.sequence_padding = SequencePadding::kExact;  // the padded tokens are summed, too
  spec.inputs = {FloatTensor("x", {kBatchDim, 6}), IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 49})};
  spec.outputs = {FloatTensor("tokens", {kBatchDim, kSequenceDim, 8}), FloatTensor("pooled", {kBatchDim, 8}),
                  IntTensor("counts", {kBatchDim}, {0, 1000})};
  return spec;
}

// Writes to an intermediate value through a view, and to its input.
ModelSpec MakeInPlace(const TempDir& dir) {
  ModelSpec spec = SaveModel(dir, "in-place",
                             R"(
def forward(self, x):
    x.mul_(2.0)
    y = torch.matmul(x, self.weight)
    left = y.select(1, 0)
    total = torch.sum(y, 1)
    left.add_(1.0)
    y.add_(x)
    left.mul_(3.0)
    return torch.relu(y) + total.unsqueeze(1)
)",
                             {{"weight", {6, 6}}});
  spec.inputs = {FloatTensor("x", {kBatchDim, 6})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 6})};
  return spec;
}

ModelSpec MakeControlFlow(const TempDir& dir) {
  ModelSpec spec = SaveModel(dir, "control-flow",
                             R"(
def forward(self, x, steps):
    hidden = torch.matmul(x, self.weight)
    offset = torch.sum(hidden, 1)
    if bool(torch.sum(x) > 0):
        hidden = torch.tanh(hidden) + offset.unsqueeze(1)
    else:
        hidden = torch.matmul(hidden, self.other)
    for i in range(int(torch.max(steps))):
        hidden = hidden * 0.5 + offset.unsqueeze(1) * float(i)
        if i > 2:
            hidden = hidden.clone()
            hidden.add_(1.0)
    return hidden, steps * 10
)",
                             {{"weight", {6, 8}}, {"other", {8, 8}}});
  spec.batchable = false;  // its branches ask for all rows
  spec.inputs = {FloatTensor("x", {kBatchDim, 6}), IntTensor("steps", {kBatchDim}, {0, 5})};
  spec.outputs = {FloatTensor("hidden", {kBatchDim, 8}), IntTensor("tens", {kBatchDim}, {0, 50})};
  return spec;
}

// Tuples and lists that cross cuts, one list appended to before and after a cut; integers made from shapes.
ModelSpec MakeContainers(const TempDir& dir) {
  ModelSpec spec = SaveModel(dir, "containers",
                             R"(
def forward(self, x):
    y = torch.matmul(x, self.weight)
    pair = (y + 1.0, x.size(0))
    parts = [y]
    for i in range(int(torch.argmax(torch.sum(x, 1))) + 1):
        parts.append(pair[0] * float(i))
    z = torch.tanh(y)
    parts.append(z)
    chunks = torch.chunk(z, 2, 1)
    if len(parts) > 3:
        pair = (pair[0] + parts[1], pair[1])
    total = torch.sum(torch.stack(parts), 0)
    return [total + pair[0], torch.cat([chunks[1], chunks[0]], 1).reshape([pair[1], 8])]
)",
                             {{"weight", {6, 8}}});
  spec.batchable = false;  // the length of its loop asks for all rows
  spec.inputs = {FloatTensor("x", {kBatchDim, 6})};
  spec.outputs = {FloatTensor("total", {kBatchDim, 8}), FloatTensor("swapped", {kBatchDim, 8})};
  return spec;
}

}  // namespace

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "abacus-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + name);
  path_ = name;
}

TempDir::~TempDir() { std::filesystem::remove_all(path_); }

torch::jit::Module MakeModule(const std::string& forward, const Weights& weights) {
  torch::jit::Module module("TestModule");
  at::Generator generator = at::detail::createCPUGenerator(7);
  module.register_attribute("training", c10::BoolType::get(), false);
  for (const auto& [name, sizes] : weights) {
    module.register_parameter(name, at::randn(sizes, generator, at::TensorOptions(at::kFloat)), /*is_buffer=*/true);
  }
  module.define(forward);
  return module;
}

ModelSpec SaveModel(const TempDir& dir, const std::string& name, const std::string& forward, const Weights& weights) {
  return SaveModule(dir, name, MakeModule(forward, weights));
}

ModelSpec SaveModule(const TempDir& dir, const std::string& name, const torch::jit::Module& module) {
  ModelSpec spec;
  spec.name = name;
  spec.file = dir.path() / (name + ".pt");
  spec.open_path = spec.file;
  spec.toml_path = dir.path() / (name + ".toml");
  spec.tolerance = 1e-4;
  spec.batch_sizes = {1, 2, 4};
  module.save(spec.file.string());
  return spec;
}

TensorSpec FloatTensor(const std::string& name, Shape dims) { return {name, DType::kFloat32, dims, {}, 0}; }
TensorSpec IntTensor(const std::string& name, Shape dims, IntRange range) {
  return {name, DType::kInt64, dims, range, 0};
}

ModelSpec MakeRowwise(const TempDir& dir) {
  ModelSpec spec = SaveModel(dir, "rowwise",
                             R"(
def forward(self, x, ids):
    tokens = torch.tanh(torch.embedding(self.table, ids) * x.unsqueeze(1))
    return tokens, x * 2.0 + 1.0, torch.sum(ids, 1)
)",
                             {{"table", {50, 8}}});
  spec.sequence_lengths = {4, 8};
  spec.inputs = {FloatTensor("x", {kBatchDim, 8}), IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 49})};
  spec.outputs = {FloatTensor("tokens", {kBatchDim, kSequenceDim, 8}), FloatTensor("scaled", {kBatchDim, 8}),
                  IntTensor("counts", {kBatchDim}, {0, 1000})};
  return spec;
}

ModelSpec MakeMixedRows(const TempDir& dir, bool shared) {
  ModelSpec spec = SaveModel(dir, shared ? "mixed-rows-shared" : "mixed-rows",
                             shared ? R"(
def forward(self, image, text, x, ids, offset):
    return image * 2.0 + offset, text + ids.unsqueeze(1), x * 3.0 + offset, torch.sum(ids, 1)
)"
                                    : R"(
def forward(self, image, text, x, ids):
    return image * 2.0 + 1.0, text + ids.unsqueeze(1), x * 3.0 + 1.0, torch.sum(ids, 1)
)");
  spec.batch_sizes = {1, 4, 16};
  spec.sequence_lengths = {4, 8};
  spec.inputs = {FloatTensor("image", {kBatchDim, 3000}), IntTensor("text", {kBatchDim, 300, kSequenceDim}, {0, 99}),
                 FloatTensor("x", {kBatchDim, 5}), IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 49})};
  if (shared) spec.inputs.push_back(FloatTensor("offset", {1}));
  spec.outputs = {FloatTensor("image", {kBatchDim, 3000}), IntTensor("text", {kBatchDim, 300, kSequenceDim}, {0, 200}),
                  FloatTensor("x", {kBatchDim, 5}), IntTensor("sums", {kBatchDim}, {0, 1000})};
  return spec;
}

ModelSpec MakeWholeBatch(const TempDir& dir, int64_t width) {
  ModelSpec spec = SaveModel(dir, "whole-batch", R"(
def forward(self, x, ids):
    largest = torch.amax(torch.abs(x), [0, 1])
    return largest.reshape([1]), torch.sum(ids).reshape([1])
)");
  spec.sequence_lengths = {4, 8};
  spec.batchable = false;
  spec.sequence_padding = SequencePadding::kAllowed;
  spec.inputs = {FloatTensor("x", {kBatchDim, width}), IntTensor("ids", {kBatchDim, kSequenceDim, width / 8}, {0, 49})};
  spec.inputs[1].pad = 3;
  spec.outputs = {FloatTensor("largest", {1}), IntTensor("sum", {1}, {0, 10000})};
  return spec;
}

std::vector<TestModel> StraightLineModels() {
  return {{"Convolution", &MakeConvolution}, {"Multi", &MakeMulti}, {"InPlace", &MakeInPlace}};
}

std::vector<TestModel> AllModels() {
  std::vector<TestModel> models = StraightLineModels();
  models.push_back({"ControlFlow", &MakeControlFlow});
  models.push_back({"Containers", &MakeContainers});
  return models;
}

Job::Job(const ModelSpec& spec, uint32_t bucket, uint64_t seed)
    : Job(spec, spec.bucket(bucket).batch, spec.bucket(bucket).sequence, seed) {}

Job::Job(const ModelSpec& spec, int64_t rows, int64_t sequence, uint64_t seed) {
  ModelSpec exact = spec;  // with this query's shape as its only bucket
  exact.batch_sizes = {rows};
  if (spec.has_sequence()) exact.sequence_lengths = {sequence};
  for (const at::Tensor& input : MakeSampleInputs(exact, 0, seed)) {
    std::vector<std::byte>& bytes = inputs_.emplace_back(input.nbytes());
    std::memcpy(bytes.data(), input.const_data_ptr(), bytes.size());
  }
  for (const TensorPlan& output : PlanBucket(exact, 0).outputs) outputs_.emplace_back(output.bytes);
  for (const auto& input : inputs_) input_pointers_.push_back(input.data());
  for (auto& output : outputs_) output_pointers_.push_back(output.data());
  query_ = {static_cast<uint32_t>(rows), static_cast<uint32_t>(sequence), input_pointers_, output_pointers_};
  ClearOutputs();
}

void Job::ClearOutputs() {
  for (auto& output : outputs_) std::ranges::fill(output, std::byte{0xA5});
}

}  // namespace abacus::test
