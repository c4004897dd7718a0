// SoloCorrection: by how much the solo times of each (service, bucket) are wrong, learned from the rounds.
//
// A worker may have measured its solo times while others used the device, or the profile may be of another day: they
// can be too long or too short by any factor. AdditiveModel and OverlapModel multiply every solo time by factor(), so
// what is learned of one service holds for it alone and in groups. CorrectedModel, on top, has what all services share.
//
// What a round says. Its time is split into what each range can have needed alone:
//   at most    its own time, from the round's start to its completion: beside others it is no faster;
//   at least   for the range that ended last: its time less what the others need alone (never more than they took).
// For a round of one range both are its time. Outside these bounds by more than kClear (ln 1.25; kClearPart, ln 2, for
// less than half of a pass, where cut points are less exact) and by kClearNs, a prediction is clearly wrong, and the
// nearest bound is what was wanted of it.
//
// What is learned. Of the last kWindow rounds (fewer at first) each wants a factor: the one that it had, unless it was
// clearly wrong. The factor jumps to their median, of two middle ones the lower, once that is clearly another: after
// the first round of a new worker, after three of a long-known one, and a single disturbed round soon changes nothing.
// Within kClear it follows ln(actual / predicted) of rounds of one range by the weight 1 / (n + 1), n being the rounds
// since the last jump; from kMeasured on for times never found clearly wrong, up to kSettled rounds, so that it is near
// a mean at first and hardly moves once settled. Short rounds count for less, as in CorrectedModel.
//
// What it never learns from: times that are longer than predicted while the device is not quiet.
//
// Thread rule: as LatencyModel; SetBuckets, Set and Record come between predictions. Record does not allocate.
#ifndef ABACUS_PREDICTOR_SOLO_CORRECTION_H_
#define ABACUS_PREDICTOR_SOLO_CORRECTION_H_

#include <boost/container/static_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "predictor/latency_model.h"

namespace abacus {

class SoloCorrection {
 public:
  static constexpr size_t kWindow = 5;
  static constexpr double kClear = 0.2231;      // ln 1.25
  static constexpr double kClearPart = 0.6931;  // ln 2
  static constexpr uint64_t kClearNs = 200'000;
  static constexpr uint32_t kMeasured = 20;
  static constexpr uint32_t kSettled = 100;
  static constexpr double kFurthest = 6.9078;  // ln 1000: keeps times finite

  // One range of a round.
  struct Part {
    OperatorRange range;
    uint64_t alone_ns = 0;  // predicted for it alone by now, all corrections included
    uint64_t took_ns = 0;   // from the start of the round to its completion; 0: it has not completed
  };
  struct Conditions {
    bool quiet = true;  // nobody else used the device
    bool ahead = true;  // it was sent ahead: its time holds no start on an idle device
  };

  double factor(ServiceId service, uint32_t bucket) const {
    return service.value() < services_.size() && bucket < services_[service.value()].size()
               ? services_[service.value()][bucket].factor
               : 1;
  }

  // A worker came up; whole_ns[b]: what the model says of a whole pass of bucket b, uncorrected. What was learned of a
  // bucket stays when that is as before: the same times, taken over from an earlier process or from a profile.
  void SetBuckets(ServiceId service, std::span<const uint64_t> whole_ns);
  // For simulations.
  void Set(ServiceId service, uint32_t bucket, double factor) { At(service, bucket).factor = factor; }

  // The ranges of a round that ended undisturbed. True: it was clearly wrong about one of them, so the round says
  // something about that service rather than about the device.
  bool Record(std::span<const Part> round, Conditions conditions);

 private:
  struct Entry {
    uint64_t whole_ns = 0;
    double factor = 1;
    uint32_t rounds = kMeasured;
    boost::container::static_vector<double, kWindow> wanted;  // ln of factors, oldest first
  };

  Entry& At(ServiceId service, uint32_t bucket);
  bool Learn(const Part& part, uint64_t least_ns, uint64_t most_ns, bool exact, Entry* entry);
  static void Jump(Entry* entry);

  std::vector<std::vector<Entry>> services_;  // [service][bucket]
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_SOLO_CORRECTION_H_
