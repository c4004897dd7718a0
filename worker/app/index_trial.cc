#include "worker/app/index_trial.h"

#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

#include "models/model_spec.h"
#include "worker/app/model_bench.h"
#include "worker/torch/bucket_plan.h"
#include "worker/torch/graph_check.h"
#include "worker/torch/torch_script_program.h"

namespace abacus {
namespace {

constexpr uint64_t kSeed = 3003;
constexpr int64_t kLargeIndex = int64_t{1} << 31;
constexpr rlim_t kMoreBytes = rlim_t{1} << 30;

// Keeps the process from growing by more than kMoreBytes: an allocation that fails is an error of the query.
class MemoryLimit {
 public:
  MemoryLimit() {
    if (getrlimit(RLIMIT_AS, &before_) != 0) return;
    rlim_t pages = 0;
    if (!(std::ifstream("/proc/self/statm") >> pages)) return;
    rlimit limited = before_;
    limited.rlim_cur = std::min(before_.rlim_cur, pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + kMoreBytes);
    set_ = setrlimit(RLIMIT_AS, &limited) == 0;
  }
  ~MemoryLimit() {
    if (set_) setrlimit(RLIMIT_AS, &before_);
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_{};
  bool set_ = false;
};

bool HasLoops(ModelBench& bench) {
  const auto* script = dynamic_cast<const TorchScriptProgram*>(&bench.program());
  if (script == nullptr) return true;  // not known
  bool loops = false;
  ForEachNode(script->graph()->block(),
              [&loops](const torch::jit::Node* node) { loops = loops || node->kind() == torch::jit::prim::Loop; });
  return loops;
}

int64_t LargestOf(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return std::numeric_limits<uint8_t>::max();
    case at::kChar:
      return std::numeric_limits<int8_t>::max();
    case at::kShort:
      return std::numeric_limits<int16_t>::max();
    case at::kInt:
      return std::numeric_limits<int32_t>::max();
    default:
      return kLargeIndex;
  }
}

std::string Try(ModelBench& bench, uint32_t bucket, size_t index, int64_t value) {
  std::vector<at::Tensor> inputs = MakeSampleInputs(bench.spec(), bucket, kSeed);
  inputs[index].view(-1)[inputs[index].numel() / 2] = value;
  bench.SetQuery(bench.spec().bucket(bucket), inputs);
  const Status status = bench.Run(bucket, {});
  return c10::str(value, status.ok() ? " is accepted" : c10::str(" fails the query: ", status.message()));
}

}  // namespace

std::vector<std::string> TryIndices(ModelBench& bench, uint32_t bucket) {
  std::vector<std::string> lines;
  std::optional<MemoryLimit> limit;
  const std::vector<TensorSpec>& inputs = bench.spec().inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorPlan& plan = bench.program().buckets()[bucket].inputs[i];
    if (!InfoOf(inputs[i].dtype).integer || inputs[i].dtype == DType::kBool || inputs[i].range || plan.bytes == 0) {
      continue;
    }
    std::string line = c10::str("input \"", inputs[i].name, "\" has no declared range: ");
    if (HasLoops(bench)) {
      lines.push_back(line + "not tried what large numbers do, because the model has loops");
      continue;
    }
    if (!limit) limit.emplace();
    if (inputs[i].dtype != DType::kUInt8) line += Try(bench, bucket, i, -1) + "; ";
    lines.push_back(line + Try(bench, bucket, i, LargestOf(plan.dtype)));
  }
  return lines;
}

}  // namespace abacus
