#include "worker/app/model_bench.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "models/held_model.h"
#include "shm/layout.h"
#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

constexpr int kUnwritten = 0xA5;  // output memory before each run

}  // namespace

Status CheckBatches(const ModelSpec& spec, const std::vector<int64_t>& batches) {
  for (const int64_t batch : batches) {
    if (!std::ranges::binary_search(spec.batch_sizes, batch)) {
      return {StatusCode::kInvalidArgument,
              c10::str("--batch ", batch, ": no such batch size in [buckets] of ", spec.toml_path.string())};
    }
  }
  return Status::Ok();
}

uint64_t BlockBytes(const ModelSpec& spec, int64_t rows, int64_t sequence) {
  return std::bit_ceil(std::max<uint64_t>(LayoutOf(spec, rows, sequence).total_bytes, kPageBytes));
}

Result<std::unique_ptr<ModelBench>> ModelBench::Load(const ModelSpec& spec, const RuntimeOptions& options) {
  // Held for its checks of the files alone: nobody is expected to replace them meanwhile.
  const Result<HeldModelPtr> held = HeldModel::Open(spec, /*need_file=*/true);
  if (!held) return Error(held.error());
  Result<std::unique_ptr<TorchRuntime>> runtime = LoadTorchRuntime(spec, options);
  if (!runtime) return Error(runtime.error());
  return Adopt(spec, std::move(*runtime), (*held)->digest());
}

Result<std::unique_ptr<ModelBench>> ModelBench::Adopt(const ModelSpec& spec, std::unique_ptr<TorchRuntime> runtime,
                                                      const std::string& digest) {
  std::unique_ptr<ModelBench> bench(new ModelBench(spec, std::move(runtime), digest));
  ABACUS_RETURN_IF_ERROR(bench->AllocateArena());
  return bench;
}

Status ModelBench::AllocateArena() {
  for (size_t b = 0; b < spec_.bucket_count(); ++b) {
    const Bucket bucket = spec_.bucket(b);
    uint64_t bytes = BlockBytes(spec_, bucket.batch, bucket.sequence);
    for (const int64_t rows : SmallestQueries(spec_, bucket.batch)) {
      bytes += 2 * BlockBytes(spec_, rows, bucket.sequence);
    }
    arena_bytes_ = std::max(arena_bytes_, bytes);
  }
  arena_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, arena_bytes_)));
  if (arena_ == nullptr) return {StatusCode::kUnavailable, "out of memory"};
  return runtime_->PinArena(arena());
}

void ModelBench::SetQuery(const Bucket& shape, const std::vector<at::Tensor>& inputs) {
  plan_ = PlanShape(spec_, shape, /*seed=*/0);
  layout_ = LayoutOf(spec_, shape);
  inputs_.clear();
  outputs_.clear();
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::byte* const target = arena_.get() + layout_.inputs[i].offset_bytes;
    std::memcpy(target, inputs[i].const_data_ptr(), layout_.inputs[i].bytes);
    inputs_.push_back(target);
  }
  for (const TensorExtent& extent : layout_.outputs) outputs_.push_back(arena_.get() + extent.offset_bytes);
}

Status ModelBench::Run(uint32_t bucket, std::span<const uint32_t> chain) {
  for (size_t i = 0; i < outputs_.size(); ++i) std::memset(outputs_[i], kUnwritten, layout_.outputs[i].bytes);
  const QueryTensors query = {static_cast<uint32_t>(plan_.bucket.batch), static_cast<uint32_t>(plan_.bucket.sequence),
                              inputs_, outputs_};
  const JobTensors job(&query, 1);
  if (chain.empty()) return runtime_->RunUncut(bucket, job);
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    ABACUS_RETURN_IF_ERROR(runtime_->Run(bucket, chain[i], chain[i + 1], job));
  }
  return Status::Ok();
}

std::vector<at::Tensor> ModelBench::outputs() const {
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    views.push_back(at::from_blob(outputs_[i], plan_.outputs[i].sizes, at::TensorOptions(plan_.outputs[i].dtype)));
  }
  return views;
}

}  // namespace abacus
