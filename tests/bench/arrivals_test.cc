#include "bench/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace abacus::bench {
namespace {

std::vector<uint64_t> Times(const ArrivalProcess& process, double rate_per_s, double seconds, uint64_t seed = 1) {
  const auto times = DrawTimes(process, rate_per_s, seconds, seed);
  EXPECT_TRUE(times.has_value());
  return *times;
}

// Variance over mean of the number of arrivals in windows: 1 for Poisson arrivals, more for bursts.
double Dispersion(const std::vector<uint64_t>& times, double seconds, double window_s) {
  std::vector<double> counts(static_cast<size_t>(seconds / window_s), 0);
  for (const uint64_t at_ns : times) {
    const auto window = static_cast<size_t>(static_cast<double>(at_ns) * 1e-9 / window_s);
    if (window < counts.size()) ++counts[window];
  }
  double mean = 0, square = 0;
  for (const double count : counts) mean += count / static_cast<double>(counts.size());
  for (const double count : counts) square += (count - mean) * (count - mean) / static_cast<double>(counts.size());
  return square / mean;
}

TEST(DrawTimes, EveryProcessAscendsAndHasItsMeanRate) {
  for (const ArrivalKind kind : {ArrivalKind::kPoisson, ArrivalKind::kBursts, ArrivalKind::kDiurnal}) {
    ArrivalProcess process;
    process.kind = kind;
    process.period_s = 7;  // not a whole number of days
    const auto times = Times(process, 1000, 200);
    // Of bursts, the share of the time that is burst varies, too.
    const double spread = kind == ArrivalKind::kBursts ? 12'000 : 1'800;
    EXPECT_NEAR(static_cast<double>(times.size()), 200'000, spread) << kArrivalNames[static_cast<size_t>(kind)];
    EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
    EXPECT_LT(times.back(), 200'000'000'000u);
    EXPECT_EQ(times, Times(process, 1000, 200)) << "the same seed gives the same arrivals";
    EXPECT_NE(times, Times(process, 1000, 200, 2));
  }
}

TEST(DrawTimes, PoissonArrivalsAreIndependent) {
  const auto times = Times({}, 1000, 100);
  EXPECT_NEAR(Dispersion(times, 100, 0.1), 1, 0.15);
  double gaps = 0, squares = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    const double gap_ms = static_cast<double>(times[i] - times[i - 1]) * 1e-6;
    gaps += gap_ms;
    squares += gap_ms * gap_ms;
  }
  // Of an exponential distribution the mean square is twice the square of the mean.
  const auto count = static_cast<double>(times.size());
  EXPECT_NEAR(squares / count / std::pow(gaps / count, 2), 2, 0.05);
}

// Rates r and 4 r, with shares 0.8 and 0.2 of the time, are 1 on average: r = 0.625.
TEST(DrawTimes, BurstsHaveTwoRatesOfTheRightRatio) {
  ArrivalProcess process;
  process.kind = ArrivalKind::kBursts;
  process.burst_factor = 4;
  process.burst_s = 2;
  process.calm_s = 8;
  const auto times = Times(process, 10'000, 1000);
  size_t calm = 0, burst = 0, between = 0;
  std::vector<size_t> counts(10'000, 0);  // of 0.1 s
  for (const uint64_t at_ns : times) ++counts[at_ns / 100'000'000];
  for (const size_t count : counts) {
    if (std::abs(static_cast<double>(count) - 625) < 110) {
      ++calm;
    } else if (std::abs(static_cast<double>(count) - 2500) < 220) {
      ++burst;
    } else {
      ++between;
    }
  }
  EXPECT_NEAR(static_cast<double>(burst) / static_cast<double>(calm + burst), 0.2, 0.05);
  EXPECT_LT(between, 450u) << "windows in which the state changed";
  EXPECT_GT(Dispersion(times, 1000, 0.1), 100);
}

TEST(DrawTimes, DiurnalArrivalsFollowTheSine) {
  ArrivalProcess process;
  process.kind = ArrivalKind::kDiurnal;
  process.swing = 0.5;
  const auto times = Times(process, 1000, 400);  // one day of 400 s
  const auto count = [&](double from_s, double to_s) {
    return static_cast<double>(std::count_if(times.begin(), times.end(),
                                             [&](uint64_t at_ns) {
                                               const double at_s = static_cast<double>(at_ns) * 1e-9;
                                               return at_s >= from_s && at_s < to_s;
                                             })) /
           (to_s - from_s);
  };
  EXPECT_NEAR(count(95, 105), 1500, 50);
  EXPECT_NEAR(count(295, 305), 500, 30);
  EXPECT_NEAR(count(0, 5) + count(395, 400), 2000, 70);
}

TEST(DrawTimes, NumbersThatCannotBeAreErrors) {
  EXPECT_FALSE(DrawTimes({}, 0, 1, 1));
  EXPECT_FALSE(DrawTimes({}, 1, 0, 1));
  EXPECT_FALSE(DrawTimes({}, NAN, 1, 1));
  EXPECT_FALSE(DrawTimes({}, 1e9, 1e9, 1));
  ArrivalProcess process;
  process.kind = ArrivalKind::kBursts;
  for (double ArrivalProcess::*field :
       {&ArrivalProcess::burst_factor, &ArrivalProcess::burst_s, &ArrivalProcess::calm_s}) {
    ArrivalProcess wrong = process;
    wrong.*field = field == &ArrivalProcess::burst_factor ? 0.5 : 0;
    EXPECT_FALSE(DrawTimes(wrong, 1, 1, 1));
  }
  process.kind = ArrivalKind::kDiurnal;
  process.swing = 1.5;
  EXPECT_FALSE(DrawTimes(process, 1, 1, 1));
}

TEST(DrawArrivals, ServicesRowsAndLengthsHaveTheirShares) {
  const std::vector<uint32_t> rows = {1, 4}, lengths = {8, 16, 64}, none = {0};
  const std::vector<Demand> demands = {{3, EvenMix(rows), EvenMix(none)}, {1, SmallOnesFirst(3), EvenMix(lengths)}};
  const auto arrivals = DrawArrivals({}, 1000, 40, demands, 1);
  ASSERT_TRUE(arrivals);
  size_t first = 0, four = 0, one = 0, longest = 0;
  for (const SimArrival& arrival : *arrivals) {
    if (arrival.service == 0) {
      ++first;
      four += arrival.rows == 4;
      ASSERT_TRUE(arrival.rows == 1 || arrival.rows == 4);
      ASSERT_EQ(arrival.sequence, 0u);
    } else {
      one += arrival.rows == 1;
      longest += arrival.sequence == 64;
      ASSERT_TRUE(arrival.rows >= 1 && arrival.rows <= 3);
    }
  }
  const auto count = static_cast<double>(arrivals->size());
  EXPECT_NEAR(static_cast<double>(first) / count, 0.75, 0.01);
  EXPECT_NEAR(static_cast<double>(four) / static_cast<double>(first), 0.5, 0.015);
  // ln 2 / ln 4.
  EXPECT_NEAR(static_cast<double>(one) / (count - static_cast<double>(first)), 0.5, 0.025);
  EXPECT_NEAR(static_cast<double>(longest) / (count - static_cast<double>(first)), 1 / 3.0, 0.025);
}

TEST(SmallOnesFirst, SharesSumToOneAndDecades) {
  double sum = 0, to_nine = 0;
  for (const MixPart& part : SmallOnesFirst(99)) {
    sum += part.share;
    if (part.value <= 9) to_nine += part.share;
  }
  EXPECT_NEAR(sum, 1, 1e-9);
  EXPECT_NEAR(to_nine, 0.5, 1e-9);
}

}  // namespace
}  // namespace abacus::bench
