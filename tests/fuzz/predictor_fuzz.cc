// Any bytes as a predictor file, as they are and with a first line whose length and checksum are right: an error that
// names the file, or a predictor that comes through encoding and decoding unchanged, connects to workers as profiled
// and predicts within its bounds; never a crash.
#include <array>
#include <boost/crc.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "predictor/overlap_model.h"

namespace {

using abacus::BucketProfile;
using abacus::ModelProfile;
using abacus::OperatorRange;
using abacus::OverlapModel;
using abacus::Prediction;

constexpr size_t kMaxTable = 100'000;  // operators in all, or connecting takes long

void CheckPrediction(const Prediction& prediction, double sum_us, double max_us, bool alone) {
  if (!prediction.trained) return;
  const auto us = static_cast<double>(prediction.ns) * 1e-3;
  const double slack = 1 + 1e-3 * sum_us;  // times are floats
  if (us > (alone ? 1 : abacus::kHighestShare) * sum_us + slack) std::abort();
  if (us < (alone ? 1 : abacus::kLowestShare) * max_us - slack) std::abort();
}

void Predict(const abacus::PredictorFile& file) {
  size_t table = 0;
  for (const ModelProfile& model : file.subject.models) {
    for (const BucketProfile& bucket : model.buckets) table += bucket.operators;
  }
  if (table > kMaxTable) return;
  auto created = OverlapModel::Create(file);
  if (!created) std::abort();
  OverlapModel& overlap = **created;
  std::vector<OperatorRange> group;
  double sum_us = 0, max_us = 0;
  for (uint32_t m = 0; m < file.subject.models.size(); ++m) {
    const ModelProfile& model = file.subject.models[m];
    OverlapModel::ServiceFacts facts{file.subject.device, file.subject.libraries, {}};
    bool measurable = true;  // in whole nanoseconds
    for (const BucketProfile& bucket : model.buckets) {
      const double ns = bucket.whole_us() * 1e3;
      measurable = measurable && ns >= 10;
      facts.buckets.push_back(
          {bucket.batch, bucket.sequence, bucket.operators, bucket.operators_at, static_cast<uint64_t>(ns)});
    }
    if (!overlap.Connect(abacus::ServiceId(m), model.name, facts).ok() && measurable) std::abort();
    if (model.buckets.empty() || group.size() == abacus::kMaxGroup) continue;
    const BucketProfile& bucket = model.buckets.back();
    const OperatorRange range = {abacus::ServiceId(m), static_cast<uint32_t>(model.buckets.size() - 1),
                                 bucket.operators / 2, bucket.operators};
    const double solo_us = std::max(0.1, bucket.whole_us() - bucket.PrefixUs(bucket.operators / 2) + bucket.us.front());
    CheckPrediction(overlap.Predict({&range, 1}), solo_us, solo_us, true);
    group.push_back(range);
    sum_us += solo_us;
    max_us = std::max(max_us, solo_us);
    const Prediction whole = overlap.Predict(group);
    CheckPrediction(whole, sum_us, max_us, group.size() == 1);
    Prediction end;
    overlap.PredictEnds(std::span(group).first(group.size() - 1), range, {&range.last, 1}, {&end, 1});
    if (end.ns != whole.ns || end.trained != whole.trained) std::abort();
  }
}

void Check(std::string_view bytes) {
  const auto file = abacus::DecodePredictor(bytes, "fuzz.predictor");
  if (!file) {
    if (!file.error().message().starts_with("fuzz.predictor: ")) std::abort();
    return;
  }
  const std::string encoded = abacus::EncodePredictor(*file);
  const auto again = abacus::DecodePredictor(encoded, "again");
  if (!again || abacus::EncodePredictor(*again) != encoded) std::abort();
  Predict(*file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Check(bytes);
  boost::crc_32_type crc;
  crc.process_bytes(data, size);
  std::array<char, 64> line;
  std::snprintf(line.data(), line.size(), "abacus-predictor 1 %zu %08x\n", size, static_cast<unsigned>(crc.checksum()));
  Check(std::string(line.data()).append(bytes));
  return 0;
}
