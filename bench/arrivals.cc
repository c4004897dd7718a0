#include "bench/arrivals.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "base/random.h"

namespace abacus::bench {
namespace {

constexpr double kMostArrivals = 200e6;

// The distributions of <random> differ from machine to machine; its engines do not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double Unit() { return UnitOf(engine_()); }
  // Exponential, with mean 1.
  double Wait() { return -std::log1p(-Unit()); }

 private:
  std::mt19937_64 engine_;
};

Status Check(const ArrivalProcess& process, double rate_per_s, double seconds) {
  const auto bad = [](const char* what) { return Status(StatusCode::kInvalidArgument, what); };
  if (!(rate_per_s > 0) || !(seconds > 0)) return bad("the rate and the length of the run must be positive");
  if (rate_per_s * seconds > kMostArrivals) return bad("more than 200 million arrivals");
  if (process.kind == ArrivalKind::kBursts) {
    if (!(process.burst_factor >= 1) || !std::isfinite(process.burst_factor)) {
      return bad("a burst brings at least as much as the calm: the factor must be at least 1");
    }
    if (!(process.burst_s > 0) || !(process.calm_s > 0))
      return bad("the mean lengths of burst and calm must be positive");
  }
  if (process.kind == ArrivalKind::kDiurnal) {
    if (!(process.swing >= 0 && process.swing <= 1)) return bad("the swing must be from 0 to 1: no rate is negative");
    if (!(process.period_s >= 0)) return bad("the period must be positive");
  }
  return Status::Ok();
}

std::vector<double> Poisson(double rate_per_s, double seconds, Random* random) {
  std::vector<double> times;
  for (double at_s = random->Wait() / rate_per_s; at_s < seconds; at_s += random->Wait() / rate_per_s) {
    times.push_back(at_s);
  }
  return times;
}

std::vector<double> Bursts(const ArrivalProcess& process, double rate_per_s, double seconds, Random* random) {
  const double calm_per_s =
      rate_per_s * (process.calm_s + process.burst_s) / (process.calm_s + process.burst_factor * process.burst_s);
  bool burst = random->Unit() * (process.calm_s + process.burst_s) < process.burst_s;
  std::vector<double> times;
  for (double begin_s = 0; begin_s < seconds; burst = !burst) {
    const double end_s = begin_s + random->Wait() * (burst ? process.burst_s : process.calm_s);
    const double per_s = burst ? calm_per_s * process.burst_factor : calm_per_s;
    // Exponential waits have no memory: each state may draw afresh.
    for (double at_s = begin_s + random->Wait() / per_s; at_s < std::min(end_s, seconds);
         at_s += random->Wait() / per_s) {
      times.push_back(at_s);
    }
    begin_s = end_s;
  }
  return times;
}

// By thinning: as many candidates as at the peak, of which each is kept with the share of the rate there.
std::vector<double> Diurnal(const ArrivalProcess& process, double rate_per_s, double seconds, Random* random) {
  const double period_s = process.period_s > 0 ? process.period_s : seconds;
  const double turn = 2 * std::numbers::pi / period_s;  // radians per second
  const auto level = [&](double at_s) { return 1 + process.swing * std::sin(turn * at_s); };
  const double mean = 1 + process.swing * (1 - std::cos(turn * seconds)) / (turn * seconds);
  const double peak = 1 + process.swing;
  std::vector<double> times;
  for (const double at_s : Poisson(rate_per_s * peak / mean, seconds, random)) {
    if (random->Unit() * peak < level(at_s)) times.push_back(at_s);
  }
  return times;
}

uint32_t Pick(const Mix& mix, double unit) {
  for (const MixPart& part : mix) {
    if (unit < part.share) return part.value;
    unit -= part.share;
  }
  return mix.back().value;
}

}  // namespace

Mix EvenMix(std::span<const uint32_t> values) {
  Mix mix;
  for (const uint32_t value : values) mix.push_back({value, 1 / static_cast<double>(values.size())});
  return mix;
}

Mix SmallOnesFirst(uint32_t most) {
  Mix mix;
  for (uint32_t value = 1; value <= most; ++value) {
    mix.push_back({value, std::log((value + 1.0) / value) / std::log(most + 1.0)});
  }
  return mix;
}

Result<std::vector<uint64_t>> DrawTimes(const ArrivalProcess& process, double rate_per_s, double seconds,
                                        uint64_t seed) {
  ABACUS_RETURN_IF_ERROR(Check(process, rate_per_s, seconds));
  Random random(seed);
  const std::vector<double> times = process.kind == ArrivalKind::kBursts ? Bursts(process, rate_per_s, seconds, &random)
                                    : process.kind == ArrivalKind::kDiurnal
                                        ? Diurnal(process, rate_per_s, seconds, &random)
                                        : Poisson(rate_per_s, seconds, &random);
  std::vector<uint64_t> times_ns;
  times_ns.reserve(times.size());
  for (const double at_s : times) times_ns.push_back(static_cast<uint64_t>(at_s * 1e9));
  return times_ns;
}

Result<std::vector<SimArrival>> DrawArrivals(const ArrivalProcess& process, double rate_per_s, double seconds,
                                             std::span<const Demand> demands, uint64_t seed) {
  const auto times = DrawTimes(process, rate_per_s, seconds, seed);
  if (!times) return Error(times.error());
  Mix services;
  double shares = 0;
  for (const Demand& demand : demands) shares += demand.share;
  for (const Demand& demand : demands)
    services.push_back({static_cast<uint32_t>(services.size()), demand.share / shares});
  Random random(~seed);  // apart from the stream of the times
  std::vector<SimArrival> arrivals;
  arrivals.reserve(times->size());
  for (const uint64_t at_ns : *times) {
    const uint32_t service = Pick(services, random.Unit());
    const uint32_t rows = Pick(demands[service].rows, random.Unit());
    arrivals.push_back({at_ns, service, rows, Pick(demands[service].sequences, random.Unit())});
  }
  return arrivals;
}

}  // namespace abacus::bench
