#include "controller/schedule/service_predictor.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "shm/region.h"

namespace abacus {

static_assert(kMaxGroup == kMaxServices, "a group has one range per service");

ServicePredictor::ServicePredictor(std::unique_ptr<OverlapModel> overlap, std::string description)
    : solo_(std::make_unique<SoloCorrection>()), overlap_(std::move(overlap)), description_(std::move(description)) {
  additive_.SetCorrection(solo_.get());
  if (overlap_ != nullptr) overlap_->SetCorrection(solo_.get());
}

ServicePredictor ServicePredictor::FallBack(const std::string& why) {
  LogWarn("{}; predicting with the sum of solo times instead", why);
  return {nullptr, "additive: " + why};
}

ServicePredictor ServicePredictor::Load(const std::filesystem::path& path) {
  if (path.empty()) return {};
  Result<PredictorFile> file = LoadPredictor(path);
  if (!file) return FallBack(file.error().message());
  ServicePredictor predictor = Use(std::move(*file), path.filename().string());
  if (predictor.trained()) LogInfo("predictor {}", predictor.description_);
  return predictor;
}

ServicePredictor ServicePredictor::Use(PredictorFile file, const std::string& name) {
  auto model = OverlapModel::Create(std::move(file));
  if (!model) return FallBack(name + ": " + model.error().message());
  const PredictorFile& loaded = (*model)->file();
  std::string description = fmt::format("overlap: {}, trained on {} groups on {}, held-out error {:.2f} %", name,
                                        loaded.samples, loaded.subject.device, loaded.mape * 100);
  return {std::move(*model), std::move(description)};
}

void ServicePredictor::WorkerUp(ServiceId service, const std::string& name, const ModelSpec& spec,
                                const WorkerFacts& worker) {
  const std::vector<WorkerRanges>& ranges = worker.ranges;
  OverlapModel::ServiceFacts facts{worker.device, worker.libraries, {}, worker.structure};
  for (uint32_t b = 0; b < ranges.size(); ++b) {
    const Bucket bucket = spec.bucket(b);
    facts.buckets.push_back({bucket.batch, bucket.sequence, ranges[b].operators, ranges[b].cuts, ranges[b].solo_ns});
    if (overlap_ == nullptr) additive_.SetBucket(service, b, ranges[b].cuts, ranges[b].solo_ns);
  }
  if (overlap_ != nullptr) {
    std::erase(unconnected_, name);
    notes_.erase(service);
    if (const Status status = overlap_->Connect(service, spec.name, facts); !status.ok()) {
      LogWarn(
          "the predictor does not fit service {}: {}; its groups are predicted by the sum of solo times until it is "
          "profiled and trained again (./mps.sh profile, ./mps.sh train)",
          name, status.message());
      unconnected_.push_back(name);
    } else if (const std::vector<std::string>& notes = overlap_->notes(service); !notes.empty()) {
      notes_[service] = fmt::format("{}", fmt::join(notes, "; "));
      LogInfo("service {}: {}", name, notes_[service]);
    }
  }
  std::vector<uint64_t> whole_ns;
  for (uint32_t b = 0; b < ranges.size(); ++b) {
    whole_ns.push_back(overlap_ != nullptr ? overlap_->SoloNs(service, b) : additive_.SoloNs(service, b));
  }
  solo_->SetBuckets(service, whole_ns);
}

const LatencyModel& ServicePredictor::model() const {
  if (overlap_ != nullptr) return *overlap_;
  return additive_;
}

double ServicePredictor::StartMargin() const {
  constexpr double kUntrained = 0.1;
  constexpr double kQuantile = 0.99;
  if (overlap_ == nullptr || overlap_->file().residuals.empty()) return kUntrained;
  const std::vector<double>& residuals = overlap_->file().residuals;
  return residuals[static_cast<size_t>(kQuantile * static_cast<double>(residuals.size() - 1))];
}

void ServicePredictor::Describe(PredictorStats* stats) const {
  std::string text = description_;
  if (!unconnected_.empty()) {
    text += "; additive for";
    for (const std::string& name : unconnected_) text += " " + name;
  }
  for (const auto& [service, notes] : notes_) text += "; " + notes;
  StoreText(stats->description, text);
  stats->trained.store(overlap_ != nullptr ? 1 : 0, std::memory_order_relaxed);
}

}  // namespace abacus
