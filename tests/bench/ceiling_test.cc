#include "bench/ceiling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>

namespace abacus::bench {
namespace {

// Times of groups by a formula of the ranges' solo times.
class FormulaModel : public LatencyModel {
 public:
  using Alone = std::function<double(const OperatorRange&)>;
  using Together = std::function<double(const std::vector<double>&)>;
  FormulaModel(Alone alone, Together together) : alone_(std::move(alone)), together_(std::move(together)) {}
  std::string_view name() const override { return "formula"; }
  Prediction Predict(std::span<const OperatorRange> group) const override {
    std::vector<double> alone;
    for (const OperatorRange& range : group) alone.push_back(alone_(range));
    return {static_cast<uint64_t>(alone.size() == 1 ? alone[0] : together_(alone)), true};
  }

 private:
  const Alone alone_;
  const Together together_;
};

// A thousand nanoseconds an operator.
double ByOperators(const OperatorRange& range) { return 1000.0 * (range.last - range.first); }
double Sum(const std::vector<double>& alone) { return alone[0] + alone[1]; }
double Longest(const std::vector<double>& alone) { return std::max(alone[0], alone[1]); }

TEST(Ceiling, WithoutOverlapItIsOne) {
  const std::vector<CeilingService> services = {{ServiceId(0), {{0, 1, {0, 1, 2}}}}, {ServiceId(1), {{0, 1, {0, 3}}}}};
  const auto ceiling = FindCeiling(FormulaModel(ByOperators, Sum), services);
  ASSERT_TRUE(ceiling) << ceiling.error().message();
  EXPECT_NEAR(ceiling->worth_per_time, 1, 1e-6);
}

// The long model has to be cut in three: only ranges of one length overlap wholly.
TEST(Ceiling, FullOverlapNeedsTheRightCuts) {
  const FormulaModel model(ByOperators, Longest);
  const std::vector<CeilingService> cut = {{ServiceId(0), {{0, 1, {0, 2}}}}, {ServiceId(1), {{0, 1, {0, 2, 4, 6}}}}};
  const auto ceiling = FindCeiling(model, cut);
  ASSERT_TRUE(ceiling);
  EXPECT_NEAR(ceiling->worth_per_time, 2, 1e-6);
  EXPECT_EQ(ceiling->cycle.size(), 3u);
  for (const CeilingRound& round : ceiling->cycle) {
    EXPECT_EQ(round.ranges.size(), 2u);
    EXPECT_EQ(round.predicted_ns, 2000u);
  }
  EXPECT_NEAR(ceiling->rows_per_s[0], 1e9 / 2000, 1);
  EXPECT_NEAR(ceiling->rows_per_s[1], 1e9 / 6000, 1);
  EXPECT_EQ(ceiling->worth_of_row_ns[1], 6000);
  // Whole, the short one beside the long one does 8 in 6.
  const std::vector<CeilingService> whole = {{ServiceId(0), {{0, 1, {0, 2}}}}, {ServiceId(1), {{0, 1, {0, 6}}}}};
  EXPECT_NEAR(FindCeiling(model, whole)->worth_per_time, 8.0 / 6, 1e-6);
}

// Bucket 1 has four rows in twice the time: alone it is the best choice, and what a row is worth.
TEST(Ceiling, BatchesAreChosenToo) {
  const FormulaModel model([](const OperatorRange& range) { return ByOperators(range) * (range.bucket + 1); }, Sum);
  const std::vector<CeilingService> service = {{ServiceId(0), {{0, 1, {0, 2}}, {1, 4, {0, 1, 2}}}}};
  const auto ceiling = FindCeiling(model, service);
  ASSERT_TRUE(ceiling);
  EXPECT_NEAR(ceiling->worth_per_time, 1, 1e-6);
  EXPECT_NEAR(ceiling->rows_per_s[0], 1e9 / 1000, 1);
  EXPECT_EQ(ceiling->cycle.front().ranges.front().bucket, 1u);
  // The large batch alone is better per row, beside another service the small one: only short ranges overlap.
  const FormulaModel short_only(
      [](const OperatorRange& range) { return range.service == ServiceId(1) ? 2000.0 : 2000.0 + 1000 * range.bucket; },
      [](const std::vector<double>& alone) { return alone[0] > 2500 ? alone[0] + alone[1] : Longest(alone); });
  const std::vector<CeilingService> two = {{ServiceId(0), {{0, 1, {0, 2}}, {1, 2, {0, 2}}}},
                                           {ServiceId(1), {{0, 1, {0, 2}}}}};
  const auto together = FindCeiling(short_only, two);
  ASSERT_TRUE(together);
  EXPECT_NEAR(together->worth_per_time, (1500 + 2000) / 2000.0, 1e-6);
}

// Against all closed walks of the game: values of the best walk of n rounds, for the ratio that was found.
TEST(Ceiling, NoCycleDoesBetterAndTheFoundOneIsReal) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    std::map<std::vector<uint32_t>, double> factors;
    const auto factor = [&](const std::vector<uint32_t>& key) {
      return factors.try_emplace(key, 0.5 + static_cast<double>(random() % 1000) / 1500).first->second;
    };
    // Any group has a time of its own.
    class RandomModel : public LatencyModel {
     public:
      explicit RandomModel(std::function<double(const std::vector<uint32_t>&)> factor) : factor_(std::move(factor)) {}
      std::string_view name() const override { return "random"; }
      Prediction Predict(std::span<const OperatorRange> group) const override {
        std::vector<uint32_t> key;
        double sum = 0;
        for (const OperatorRange& range : group) {
          key.insert(key.end(), {range.service.value(), range.bucket, range.first, range.last});
          sum += ByOperators(range) * (1 + range.bucket);
        }
        return {static_cast<uint64_t>(sum * factor_(key)), true};
      }

     private:
      const std::function<double(const std::vector<uint32_t>&)> factor_;
    };
    const RandomModel model(factor);
    const std::vector<CeilingService> services = {{ServiceId(0), {{0, 1, {0, 1, 3}}, {1, 3, {0, 2, 3}}}},
                                                  {ServiceId(1), {{0, 1, {0, 2, 3, 5}}}}};
    const auto ceiling = FindCeiling(model, services);
    ASSERT_TRUE(ceiling) << ceiling.error().message();
    EXPECT_EQ(ceiling->rounds, CeilingRounds(services));
    // The found cycle: ranges follow each other, and it does what is said of it.
    std::vector<double> rows(2, 0);
    double time_ns = 0;
    for (const CeilingRound& round : ceiling->cycle) {
      EXPECT_EQ(round.predicted_ns, model.PredictNs(round.ranges));
      time_ns += static_cast<double>(round.predicted_ns);
      for (const OperatorRange& range : round.ranges) {
        const size_t s = range.service.value();
        const CeilingShape& shape = services[s].shapes[range.bucket];
        if (range.last == shape.cuts.back()) rows[s] += shape.rows;
      }
    }
    const double worth_ns = rows[0] * ceiling->worth_of_row_ns[0] + rows[1] * ceiling->worth_of_row_ns[1];
    EXPECT_NEAR(worth_ns / time_ns, ceiling->worth_per_time, 1e-5) << seed;
    EXPECT_NEAR(rows[0] / time_ns * 1e9, ceiling->rows_per_s[0], 1e-3 * ceiling->rows_per_s[0] + 1e-6);

    // All walks: at (state of 0, state of 1), each as (bucket, cut index), {0, 0}: none. Rows count when they are done.
    using Place = std::pair<uint32_t, uint32_t>;
    using State = std::pair<Place, Place>;
    std::map<State, double> best = {{{{0, 0}, {0, 0}}, 0}};
    const double slightly_more = ceiling->worth_per_time * (1 + 1e-4) + 1e-9;
    double most = 0;
    for (int step = 0; step < 60; ++step) {
      std::map<State, double> then;
      for (const auto& [state, value] : best) {
        struct Option {
          Place place;
          std::vector<OperatorRange> range;  // none: idle
          double worth_ns = 0;
        };
        std::vector<std::vector<Option>> options(2);
        for (uint32_t s = 0; s < 2; ++s) {
          const Place place = s == 0 ? state.first : state.second;
          options[s].push_back({place, {}, 0});
          for (uint32_t b = 0; b < services[s].shapes.size(); ++b) {
            if (place.second != 0 && place.first != b) continue;
            const CeilingShape& shape = services[s].shapes[b];
            for (uint32_t to = place.second + 1; to < shape.cuts.size(); ++to) {
              const bool done = to + 1 == shape.cuts.size();
              options[s].push_back({done ? Place(0, 0) : Place(b, to),
                                    {{ServiceId(s), b, shape.cuts[place.second], shape.cuts[to]}},
                                    done ? shape.rows * ceiling->worth_of_row_ns[s] : 0});
            }
          }
        }
        for (const Option& a : options[0]) {
          for (const Option& b : options[1]) {
            std::vector<OperatorRange> group = a.range;
            group.insert(group.end(), b.range.begin(), b.range.end());
            if (group.empty()) continue;
            const double gain =
                value + a.worth_ns + b.worth_ns - slightly_more * static_cast<double>(model.PredictNs(group));
            const State next = {a.place, b.place};
            const auto [entry, added] = then.try_emplace(next, gain);
            if (!added) entry->second = std::max(entry->second, gain);
          }
        }
      }
      best = std::move(then);
      most = std::max(most, best.at({{0, 0}, {0, 0}}));
    }
    EXPECT_LE(most, 0) << "a closed walk has a higher ratio, seed " << seed;
  }
}

TEST(Ceiling, TooLargeOrEmptySearchesAreErrors) {
  const FormulaModel model(ByOperators, Sum);
  std::vector<uint32_t> cuts;
  for (uint32_t i = 0; i <= 64; ++i) cuts.push_back(i);
  const std::vector<CeilingService> large(3, {ServiceId(0), {{0, 1, cuts}}});
  EXPECT_THAT(FindCeiling(model, large).error().message(), testing::HasSubstr("more than 8000000"));
  EXPECT_FALSE(FindCeiling(model, std::vector<CeilingService>{}));
  EXPECT_FALSE(FindCeiling(model, std::vector<CeilingService>{{ServiceId(0), {}}}));
  EXPECT_FALSE(FindCeiling(model, std::vector<CeilingService>{{ServiceId(0), {{0, 1, {0}}}}}));
  const FormulaModel unknown([](const OperatorRange&) { return 0; }, Sum);
  EXPECT_FALSE(FindCeiling(unknown, std::vector<CeilingService>{{ServiceId(0), {{0, 1, {0, 1}}}}}));
}

TEST(EvenCuts, AreEvenInTime) {
  // The first half of the operators takes a tenth of the time.
  const FormulaModel model(
      [](const OperatorRange& range) {
        double ns = 0;
        for (uint32_t op = range.first; op < range.last; ++op) ns += op < 10 ? 100 : 900;
        return ns;
      },
      Sum);
  std::vector<uint32_t> cuts;
  for (uint32_t i = 0; i <= 20; ++i) cuts.push_back(i);
  EXPECT_THAT(EvenCuts(model, ServiceId(0), 0, cuts, 2), testing::ElementsAre(0, 14, 20));
  EXPECT_THAT(EvenCuts(model, ServiceId(0), 0, cuts, 1), testing::ElementsAre(0, 20));
  const std::vector<uint32_t> few = {0, 10, 20};
  EXPECT_THAT(EvenCuts(model, ServiceId(0), 0, few, 8), testing::ElementsAre(0, 10, 20));
}

}  // namespace
}  // namespace abacus::bench
