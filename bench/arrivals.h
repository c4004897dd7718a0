// Arrivals for the simulator: when queries come, of which service, with how many rows and how long.
//
// Times come from one of three processes, all with the mean rate that is asked for:
//   poisson   independent arrivals.
//   bursts    a Markov-modulated Poisson process of two states: calm and burst alternate, exponentially long with means
//             calm_s and burst_s; in a burst `burst_factor` times as much arrives as in the calm. The mean is that of
//             the process: a run sees it when it is many bursts long.
//   diurnal   a Poisson process whose rate goes up and down as a sine: 1 + swing * sin(2 pi t / period), from the mean
//   at
//             the start upwards; divided by what that is on average over the run, so that its mean is exact.
// Services, rows and lengths are drawn independently for every arrival.
//
// Thread rule: pure functions; the same seed gives the same arrivals on every machine with the same libm. Errors say
// which number cannot be.
#ifndef ABACUS_BENCH_ARRIVALS_H_
#define ABACUS_BENCH_ARRIVALS_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "bench/simulator.h"

namespace abacus::bench {

enum class ArrivalKind : uint8_t { kPoisson, kBursts, kDiurnal };
inline constexpr std::array<std::string_view, 3> kArrivalNames = {"poisson", "bursts", "diurnal"};

struct ArrivalProcess {
  ArrivalKind kind = ArrivalKind::kPoisson;
  double burst_factor = 4;  // at least 1
  double burst_s = 0.1;     // mean length of a burst
  double calm_s = 0.9;      // and of what is between two
  double period_s = 0;      // of diurnal; 0: the whole run is one day
  double swing = 0.8;       // of diurnal, 0 to 1
};

// Numbers with their shares, which sum to 1.
struct MixPart {
  uint32_t value = 0;
  double share = 0;
};
using Mix = std::vector<MixPart>;
// All equally often. `values` is not empty.
Mix EvenMix(std::span<const uint32_t> values);
// 1 to `most`, each order of magnitude equally often (log-uniform): small ones are frequent, large ones occur.
Mix SmallOnesFirst(uint32_t most);

// What is asked of one service.
struct Demand {
  double share = 1;  // of the queries, relative to the other services
  Mix rows;
  Mix sequences;  // {0}: the model has none
};

// Ascending times from the start, in [0, seconds).
Result<std::vector<uint64_t>> DrawTimes(const ArrivalProcess& process, double rate_per_s, double seconds,
                                        uint64_t seed);
// The same with service, rows and sequence; arrival `service` is the index of its demand.
Result<std::vector<SimArrival>> DrawArrivals(const ArrivalProcess& process, double rate_per_s, double seconds,
                                             std::span<const Demand> demands, uint64_t seed);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_ARRIVALS_H_
