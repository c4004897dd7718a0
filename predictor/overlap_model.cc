#include "predictor/overlap_model.h"

#include <algorithm>
#include <cmath>

namespace abacus {
namespace {

constexpr size_t kDigestShown = 16;  // digits in messages

Prediction Decode(float y, const GroupTimes& times) {
  return {static_cast<uint64_t>(DecodeTime(y, times) * 1e3), true};
}

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
  Result<std::vector<BucketMatch>> matches = MatchBuckets(*model, facts.buckets);
  if (!matches) return matches.error();
  Service connected;
  connected.model = static_cast<uint32_t>(model - subject.models.begin());
  for (uint32_t b = 0; b < matches->size(); ++b) {
    BucketMatch& match = (*matches)[b];
    Bucket& bucket = connected.buckets.emplace_back();
    bucket.shares = std::move(match.shares);
    for (const BucketMatch::Corner& corner : match.corners) {
      const BucketProfile& profile = model->buckets[corner.bucket];
      const RangeTimes times = TimesOf(profile, 0, profile.operators);
      const auto round_us = static_cast<float>(profile.us.front());
      bucket.corners.push_back({round_us, times.whole_us - round_us, times.log2_batch, times.log2_sequence,
                                static_cast<float>(corner.weight)});
    }
    if (match.corners.empty()) {
      const BucketFacts& fact = facts.buckets[b];
      additive_.SetBucket(service, b, fact.cuts, static_cast<uint64_t>(match.whole_us * 1e3));
    }
    if (!match.note.empty() && std::ranges::find(connected.notes, match.note) == connected.notes.end()) {
      connected.notes.push_back(std::move(match.note));
    }
  }
  services_[service.value()] = std::move(connected);
  return Status::Ok();
}

uint64_t OverlapModel::SoloNs(ServiceId service, uint32_t bucket) const {
  if (service.value() < services_.size() && bucket < services_[service.value()].buckets.size()) {
    float whole_us = 0;
    for (const Corner& corner : services_[service.value()].buckets[bucket].corners) {
      whole_us += corner.weight * (corner.round_us + corner.pass_us);
    }
    if (whole_us > 0) return static_cast<uint64_t>(whole_us * 1e3f);
  }
  return additive_.SoloNs(service, bucket);
}

const OverlapModel::Bucket* OverlapModel::Find(const OperatorRange& range) const {
  if (range.service.value() >= services_.size()) return nullptr;
  const Service& service = services_[range.service.value()];
  if (range.bucket >= service.buckets.size()) return nullptr;  // none while not connected
  const Bucket& bucket = service.buckets[range.bucket];
  if (range.last >= bucket.shares.size() || range.first >= range.last || bucket.corners.empty()) return nullptr;
  return &bucket;
}

RangeTimes OverlapModel::TimesAt(const OperatorRange& range, const Bucket& bucket, const Corner& corner) const {
  const auto factor =
      correction_ != nullptr ? static_cast<float>(correction_->factor(range.service, range.bucket)) : 1.0f;
  const auto up_to = [&](uint32_t op) { return factor * (corner.round_us + bucket.shares[op] * corner.pass_us); };
  return {up_to(range.first) - factor * corner.round_us, up_to(range.last), factor * (corner.round_us + corner.pass_us),
          corner.log2_batch, corner.log2_sequence};
}

Prediction OverlapModel::PredictAlone(const OperatorRange& range) const {
  const Bucket* bucket = Find(range);
  if (bucket == nullptr) return Additive({&range, 1});
  float us = 0;
  for (const Corner& corner : bucket->corners) us += corner.weight * TimesAt(range, *bucket, corner).solo_us();
  return {std::max<uint64_t>(1, static_cast<uint64_t>(us * 1e3f)), true};  // 0 would mean unknown
}

void OverlapModel::Add(const OperatorRange& range, size_t corner, Partial* partial, HiddenSums* sums) const {
  const Bucket* bucket = Find(range);
  const uint32_t model = bucket != nullptr ? services_[range.service.value()].model : 0;
  if (bucket == nullptr || (partial->models >> model & 1) != 0) {  // unknown, or two services of one model
    partial->known = false;
    return;
  }
  partial->mixed |= bucket->corners.size() > 1;
  const RangeTimes times = TimesAt(range, *bucket, bucket->corners[std::min(corner, bucket->corners.size() - 1)]);
  std::array<float, kRangeColumns> columns;
  FillRangeColumns(times, columns);
  mlp_.Accumulate(model * kRangeColumns, columns, sums);
  partial->times.Add(times.solo_us());
  partial->models |= uint64_t{1} << model;
}

void OverlapModel::AddGroup(const GroupTimes& times, HiddenSums* sums) const {
  std::array<float, kGroupColumns> columns;
  FillGroupColumns(times, columns);
  mlp_.Accumulate(file_.subject.models.size() * kRangeColumns, columns, sums);
}

Prediction OverlapModel::Predict(std::span<const OperatorRange> group) const {
  if (group.size() == 1) return PredictAlone(group[0]);
  Partial partial;
  HiddenSums sums;
  mlp_.Start(&sums);
  for (const OperatorRange& range : group) Add(range, 0, &partial, &sums);
  if (!partial.known || !trained_.contains(partial.models)) return Additive(group);
  if (partial.mixed) return PredictMixed(group);
  AddGroup(partial.times, &sums);
  return Decode(mlp_.Finish(sums), partial.times);
}

Prediction OverlapModel::PredictMixed(std::span<const OperatorRange> group) const {
  // The whole group's time with `moved` at that corner and all others at their smallest.
  const auto time_us = [&](size_t moved, size_t corner) {
    Partial partial;
    HiddenSums sums;
    mlp_.Start(&sums);
    for (size_t i = 0; i < group.size(); ++i) Add(group[i], i == moved ? corner : 0, &partial, &sums);
    AddGroup(partial.times, &sums);
    return DecodeTime(mlp_.Finish(sums), partial.times);
  };
  const double least_us = time_us(group.size(), 0);
  double us = least_us;
  GroupTimes times;
  for (size_t i = 0; i < group.size(); ++i) {
    const Bucket& bucket = *Find(group[i]);
    float solo_us = 0;
    for (size_t c = 0; c < bucket.corners.size(); ++c) {
      const Corner& corner = bucket.corners[c];
      solo_us += corner.weight * TimesAt(group[i], bucket, corner).solo_us();
      if (c > 0) us += static_cast<double>(corner.weight) * (time_us(i, c) - least_us);
    }
    times.Add(solo_us);
  }
  const double bounded_us = std::clamp(us, kLowestShare * static_cast<double>(times.max_us),
                                       kHighestShare * static_cast<double>(times.sum_us));
  return {static_cast<uint64_t>(bounded_us * 1e3), true};
}

void OverlapModel::PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                                  std::span<Prediction> out) const {
  if (group.empty()) {
    for (size_t i = 0; i < choices.size(); ++i) out[i] = PredictAlone(choices[i]);
    return;
  }
  Partial base;
  HiddenSums base_sums;
  mlp_.Start(&base_sums);
  for (const OperatorRange& member : group) Add(member, 0, &base, &base_sums);
  const uint64_t group_ns = additive_.PredictNs(group);
  uint64_t models = 0;  // that were looked up last: mostly the same again
  bool trained = false;
  std::array<OperatorRange, kMaxGroup> extended;  // for those that the network is asked about several times
  std::ranges::copy(group, extended.begin());
  constexpr size_t kBlock = 16;  // evaluated at once
  std::array<HiddenSums, kBlock> sums;
  std::array<GroupTimes, kBlock> times;
  std::array<size_t, kBlock> which;
  std::array<float, kBlock> y;
  for (size_t next = 0; next < choices.size();) {
    size_t count = 0;
    for (; next < choices.size() && count < kBlock; ++next) {
      Partial partial = base;
      sums[count] = base_sums;
      Add(choices[next], 0, &partial, &sums[count]);
      if (partial.models != models) trained = trained_.contains(models = partial.models);
      if (!partial.known || !trained) {
        out[next] = {group_ns + additive_.PredictNs(choices[next]), false};
        continue;
      }
      if (partial.mixed) {
        extended[group.size()] = choices[next];
        out[next] = PredictMixed({extended.data(), group.size() + 1});
        continue;
      }
      AddGroup(partial.times, &sums[count]);
      times[count] = partial.times;
      which[count++] = next;
    }
    mlp_.Finish(std::span(sums).first(count), y);
    for (size_t i = 0; i < count; ++i) out[which[i]] = Decode(y[i], times[i]);
  }
}

}  // namespace abacus
