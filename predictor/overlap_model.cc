#include "predictor/overlap_model.h"

#include <algorithm>
#include <cmath>

namespace abacus {
namespace {

constexpr size_t kDigestShown = 16;  // digits in messages

}  // namespace

Result<std::unique_ptr<OverlapModel>> OverlapModel::Create(PredictorFile file) {
  Result<Mlp> mlp = Mlp::Create(file.layers);
  if (!mlp) return Error(mlp.error());
  if (mlp->inputs() != FeatureCount(file.subject.models.size())) {
    return Error(StatusCode::kInvalidArgument, "the network does not fit the models of the file");
  }
  return std::unique_ptr<OverlapModel>(new OverlapModel(std::move(file), std::move(*mlp)));
}

OverlapModel::OverlapModel(PredictorFile file, Mlp mlp) : file_(std::move(file)), mlp_(std::move(mlp)) {
  for (const TrainedSet& set : file_.trained) {
    uint64_t bits = 0;
    for (const uint32_t model : set.models) bits |= uint64_t{1} << model;
    trained_.insert(bits);
  }
}

Status OverlapModel::Connect(ServiceId service, const std::string& name, const ServiceFacts& facts) {
  if (services_.size() <= service.value()) services_.resize(service.value() + 1);
  services_[service.value()] = {};
  for (uint32_t b = 0; b < facts.buckets.size(); ++b) {
    additive_.SetBucket(service, b, facts.buckets[b].cuts, facts.buckets[b].solo_ns);
  }
  const auto bad = [](const std::string& what) { return Status(StatusCode::kInvalidArgument, what); };
  const ProfileData& subject = file_.subject;
  if (facts.device != subject.device) {
    return bad("it was trained on \"" + subject.device + "\", this is \"" + facts.device + "\"");
  }
  if (facts.libraries != subject.libraries) {
    return bad("it was trained with " + subject.libraries + ", the worker has " + facts.libraries);
  }
  const auto model = std::find_if(subject.models.begin(), subject.models.end(),
                                  [&](const ModelProfile& candidate) { return candidate.name == name; });
  if (model == subject.models.end()) return bad("it was not trained with a model named " + name);
  if (!model->structure.empty() && !facts.structure.empty() && model->structure != facts.structure) {
    return bad("it was trained on " + name + " with structure " + model->structure.substr(0, kDigestShown) +
               ", the worker's has structure " + facts.structure.substr(0, kDigestShown) +
               ": other operators, shapes or types");
  }
  if (model->buckets.size() != facts.buckets.size()) return bad("the buckets of " + name + " have changed");
  Service connected;
  connected.model = static_cast<uint32_t>(model - subject.models.begin());
  for (size_t b = 0; b < facts.buckets.size(); ++b) {
    const BucketProfile& profile = model->buckets[b];
    const ServiceFacts::BucketFacts& fact = facts.buckets[b];
    const std::string where = "bucket " + std::to_string(b) + " of " + name;
    if (profile.batch != fact.batch || profile.sequence != fact.sequence) return bad(where + " has changed its shape");
    if (profile.operators != fact.operators) {
      return bad(where + " had " + std::to_string(profile.operators) + " operators and has " +
                 std::to_string(fact.operators) + " now");
    }
    if (static_cast<double>(fact.solo_ns) * 1e-3 * kTooFast < profile.whole_us()) {
      return bad(where + " took " + std::to_string(std::lround(profile.whole_us())) + " us alone and takes " +
                 std::to_string(fact.solo_ns / 1000) + " us now");
    }
    Bucket bucket;
    for (uint32_t op = 0; op <= profile.operators; ++op) {
      bucket.prefix_us.push_back(static_cast<float>(profile.PrefixUs(op)));
    }
    const RangeTimes times = TimesOf(profile, 0, profile.operators);
    bucket.log2_batch = times.log2_batch;
    bucket.log2_sequence = times.log2_sequence;
    connected.buckets.push_back(std::move(bucket));
  }
  services_[service.value()] = std::move(connected);
  return Status::Ok();
}

uint64_t OverlapModel::SoloNs(ServiceId service, uint32_t bucket) const {
  if (service.value() < services_.size() && bucket < services_[service.value()].buckets.size()) {
    return static_cast<uint64_t>(services_[service.value()].buckets[bucket].prefix_us.back() * 1e3f);
  }
  return additive_.SoloNs(service, bucket);
}

const OverlapModel::Service* OverlapModel::Find(const OperatorRange& range, RangeTimes* times) const {
  if (range.service.value() >= services_.size()) return nullptr;
  const Service& service = services_[range.service.value()];
  if (range.bucket >= service.buckets.size()) return nullptr;  // none while not connected
  const Bucket& bucket = service.buckets[range.bucket];
  const std::vector<float>& prefix_us = bucket.prefix_us;
  if (range.last >= prefix_us.size() || range.first >= range.last) return nullptr;
  const auto factor =
      correction_ != nullptr ? static_cast<float>(correction_->factor(range.service, range.bucket)) : 1.0f;
  *times = {factor * (prefix_us[range.first] - prefix_us.front()), factor * prefix_us[range.last],
            factor * prefix_us.back(), bucket.log2_batch, bucket.log2_sequence};
  return &service;
}

Prediction OverlapModel::PredictAlone(const OperatorRange& range) const {
  RangeTimes times;
  if (Find(range, &times) == nullptr) return Additive({&range, 1});
  return {std::max<uint64_t>(1, static_cast<uint64_t>(times.solo_us() * 1e3f)), true};  // 0 would mean unknown
}

void OverlapModel::Add(const OperatorRange& range, Partial* partial) const {
  RangeTimes times;
  const Service* service = Find(range, &times);
  if (service == nullptr || (partial->models >> service->model & 1) != 0) {  // unknown, or two services of one model
    partial->known = false;
    return;
  }
  std::array<float, kRangeColumns> columns;
  FillRangeColumns(times, columns);
  mlp_.Accumulate(service->model * kRangeColumns, columns, &partial->sums);
  partial->times.Add(times.solo_us());
  partial->models |= uint64_t{1} << service->model;
}

Prediction OverlapModel::Finish(const Partial& partial) const {
  std::array<float, kGroupColumns> columns;
  FillGroupColumns(partial.times, columns);
  HiddenSums sums = partial.sums;
  mlp_.Accumulate(file_.subject.models.size() * kRangeColumns, columns, &sums);
  return {static_cast<uint64_t>(DecodeTime(mlp_.Finish(sums), partial.times) * 1e3), true};
}

Prediction OverlapModel::Predict(std::span<const OperatorRange> group) const {
  if (group.size() == 1) return PredictAlone(group[0]);
  Partial partial;
  mlp_.Start(&partial.sums);
  for (const OperatorRange& range : group) Add(range, &partial);
  return partial.known && trained_.contains(partial.models) ? Finish(partial) : Additive(group);
}

void OverlapModel::PredictEnds(std::span<const OperatorRange> group, const OperatorRange& range,
                               std::span<const uint32_t> lasts, std::span<Prediction> out) const {
  OperatorRange end = range;
  if (group.empty()) {
    for (size_t i = 0; i < lasts.size(); ++i) {
      end.last = lasts[i];
      out[i] = PredictAlone(end);
    }
    return;
  }
  Partial base;
  mlp_.Start(&base.sums);
  for (const OperatorRange& member : group) Add(member, &base);
  for (size_t i = 0; i < lasts.size(); ++i) {
    Partial partial = base;
    end.last = lasts[i];
    Add(end, &partial);
    if (partial.known && trained_.contains(partial.models)) {
      out[i] = Finish(partial);
    } else {
      out[i] = {Additive(group).ns + additive_.PredictNs(end), false};
    }
  }
}

}  // namespace abacus
