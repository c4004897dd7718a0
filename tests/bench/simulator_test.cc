#include "bench/simulator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bench/arrivals.h"
#include "bench/policy_choice.h"
#include "predictor/features.h"

namespace abacus::bench {
namespace {

// Two models of 1000 and 500 us, and with `batches` their passes of 2, 4 and 8 rows, each row beyond the first a tenth
// more; a group takes `share` of the sum of its parts.
PredictorFile MakeFile(double share, double error = 0, bool batches = false) {
  PredictorFile file;
  file.subject.device = file.subject.libraries = "test";
  for (const double one_row_us : {1000.0, 500.0}) {
    ModelProfile model;
    model.name = one_row_us > 700 ? "long" : "short";
    for (const int64_t batch : {1, 2, 4, 8}) {
      if (batch > 1 && !batches) break;
      const double whole_us = one_row_us * (1 + 0.1 * static_cast<double>(batch - 1));
      BucketProfile bucket;
      bucket.batch = batch;
      bucket.operators = 64;
      for (uint32_t op = 0; op <= 64; ++op) {
        bucket.operators_at.push_back(op);
        bucket.us.push_back(whole_us * op / 64);
      }
      model.buckets.push_back(bucket);
    }
    file.subject.models.push_back(model);
  }
  size_t inputs = FeatureCount(2);
  for (const size_t outputs : {kHiddenWidth, size_t{1}}) {
    MlpLayer layer{inputs, outputs, std::vector<float>(inputs * outputs), std::vector<float>(outputs)};
    if (outputs == 1) layer.bias[0] = static_cast<float>(std::log(share));
    file.layers.push_back(layer);
    inputs = outputs;
  }
  file.trained.push_back({{0, 1}, 100, 0});
  for (int i = 0; i <= 100; ++i) file.residuals.push_back(error * (i - 50) / 50);
  return file;
}

SimOptions Options(const std::string& policy) {
  SimOptions options;
  PolicyChoice choice = ParsePolicyChoice(policy).value();
  choice.Apply(&options.scheduler);
  options.services = {{0, 10'000'000}, {1, 10'000'000}};
  return options;
}

std::vector<SimArrival> OneRowEach(double rate_per_s, double seconds) {
  const uint32_t one = 1, none = 0;
  const std::vector<Demand> demands(2, {1, EvenMix({&one, 1}), EvenMix({&none, 1})});
  return DrawArrivals({}, rate_per_s, seconds, demands, 3).value();
}

SimResult RunLoad(const PredictorFile& file, const SimOptions& options, double rate_per_s, double seconds = 4) {
  const auto result = Simulate(file, options, OneRowEach(rate_per_s, seconds));
  EXPECT_TRUE(result.has_value());
  return result.value();
}

std::vector<std::string> AllPolicies() {
  const auto choices = ParsePolicyChoices({"all"});
  std::vector<std::string> policies;
  for (const PolicyChoice& choice : choices.value()) policies.push_back(choice.text);
  return policies;
}

TEST(Simulator, AnswersEveryQueryOnceUnderEveryPolicy) {
  const PredictorFile file = MakeFile(0.7, 0.05, true);
  for (const std::string& policy : AllPolicies()) {
    for (const double rate_per_s : {300.0, 3000.0, 20'000.0}) {
      const SimResult result = RunLoad(file, Options(policy), rate_per_s, 1);
      EXPECT_EQ(result.total.in_time + result.total.late + result.total.refused, result.total.sent) << policy;
      EXPECT_EQ(result.total.latency_ns.size(), result.total.in_time + result.total.late) << policy;
      EXPECT_EQ(result.services[0].sent + result.services[1].sent, result.total.sent);
      EXPECT_EQ(result.total.rows_done, result.total.job_rows) << policy << ": every row was in a job that completed";
      EXPECT_GT(result.total.in_time, 0u) << policy;
    }
  }
}

TEST(Simulator, TheSameSeedGivesTheSameRun) {
  const PredictorFile file = MakeFile(0.7, 0.05, true);
  for (const char* policy : {"free", "abacus"}) {
    const SimResult a = RunLoad(file, Options(policy), 1500), b = RunLoad(file, Options(policy), 1500);
    EXPECT_EQ(a.total.latency_ns, b.total.latency_ns) << policy;
    EXPECT_EQ(a.rounds, b.rounds);
    SimOptions other = Options(policy);
    other.seed = 2;
    EXPECT_NE(RunLoad(file, other, 1500).total.latency_ns, a.total.latency_ns) << policy;
  }
}

// One query at a time the GPU does 1333 a second, in batches of eight 1333 * 8 / 1.7.
TEST(Simulator, BatchesCarryALoadThatSingleQueriesDoNot) {
  const PredictorFile file = MakeFile(1.1, 0.02, true);
  for (const std::string policy : {"edf", "abacus", "fcfs"}) {
    const SimResult batched = RunLoad(file, Options(policy), 4000);
    EXPECT_LT(batched.worst_violation(), 0.02) << policy;
    EXPECT_GT(batched.total.rows_per_job(), 2.5) << policy;
    EXPECT_LE(batched.total.rows_per_job(), 8) << policy;
    const SimResult single = RunLoad(file, Options(policy + ":off"), 4000);
    EXPECT_GT(single.total.violation(), 0.5) << policy;
    EXPECT_EQ(single.total.rows_per_job(), 1) << policy;
    EXPECT_EQ(single.total.padding(), 0) << policy;
  }
}

TEST(Simulator, AServiceMayHaveALowerMaxBatch) {
  SimOptions options = Options("edf");
  options.services[0].max_batch = 2;
  options.services[1].max_batch = 1;
  const SimResult result = RunLoad(MakeFile(1.1, 0, true), options, 4000);
  EXPECT_GT(result.services[0].rows_per_job(), 1.5);
  EXPECT_LE(result.services[0].rows_per_job(), 2);
  EXPECT_EQ(result.services[1].rows_per_job(), 1);
}

// Rows that no bucket has are padded, and more rows than the largest has run in parts.
TEST(Simulator, QueriesOfManyRowsRunToo) {
  const std::vector<SimArrival> arrivals = {{0, 0, 3, 0}, {50'000'000, 0, 20, 0}};
  SimOptions options = Options("edf");
  options.services[0].qos_ns = 40'000'000;
  const auto result = Simulate(MakeFile(0.7, 0, true), options, arrivals);
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->total.in_time, 2u);
  EXPECT_EQ(result->total.rows_done, 23u);
  EXPECT_EQ(result->total.jobs, 4u) << "3; 8, 8 and 4 of 20";
  EXPECT_EQ(result->total.padding_rows, 1u);
  EXPECT_NEAR(static_cast<double>(result->total.latency_ns[0]), 1300e3, 5e3);
  EXPECT_NEAR(static_cast<double>(result->total.latency_ns[1]), (1700 + 1700 + 1300) * 1e3, 20e3);
}

// Nothing else happens while a policy waits on purpose: the clock has to stop where it wants to go on.
TEST(Simulator, ADelayEndsWhenItIsOver) {
  const std::vector<SimArrival> arrivals = {{0, 0, 1, 0}, {50'000'000, 1, 1, 0}};
  for (const char* policy : {"delay:300us", "delay-free:300us"}) {
    const auto result = Simulate(MakeFile(0.7, 0, true), Options(policy), arrivals);
    ASSERT_TRUE(result);
    EXPECT_NEAR(static_cast<double>(result->services[0].latency_ns.at(0)), 1300e3, 2e3) << policy;
    EXPECT_NEAR(static_cast<double>(result->services[1].latency_ns.at(0)), 800e3, 2e3) << policy;
  }
}

TEST(Simulator, ARunThatIsLostIsGivenUp) {
  SimOptions options = Options("edf:off");
  options.give_up = 0.01;
  const SimResult lost = RunLoad(MakeFile(0.7), options, 10'000, 20);
  EXPECT_TRUE(lost.gave_up);
  EXPECT_GT(lost.worst_violation(), 0.01);
  EXPECT_LT(lost.end_ns, 2'000'000'000u);
  EXPECT_FALSE(RunLoad(MakeFile(0.7), options, 500, 2).gave_up);
}

TEST(SimulateFull, QueuesThatNeverRunDryShowWhatOverlapBrings) {
  SimOptions options = Options("edf");
  options.scheduler.abandon = false;
  options.errors = false;
  for (SimService& service : options.services) service.qos_ns = 1'000'000'000'000'000;
  const auto alone = SimulateFull(MakeFile(0.8, 0.1, true), options, {64, 500'000'000, 4'000'000'000});
  ASSERT_TRUE(alone) << alone.error().message();
  EXPECT_NEAR(alone->total.rows_per_job(), 8, 0.01);
  EXPECT_NEAR(alone->busy, 1, 1e-3);
  // 16 rows in 1.7 + 0.85 ms.
  EXPECT_NEAR(static_cast<double>(alone->total.rows_done), 4000 / 2.55 * 16, 40);
  EXPECT_NEAR(static_cast<double>(alone->end_ns), 4e9, 5e6);
  options.scheduler.policy = "abacus";
  const auto together = SimulateFull(MakeFile(0.8, 0.1, true), options, {64, 500'000'000, 4'000'000'000});
  ASSERT_TRUE(together);
  EXPECT_GT(static_cast<double>(together->total.rows_done), 1.15 * static_cast<double>(alone->total.rows_done));
}

TEST(Simulator, AQueryAloneTakesItsSoloTime) {
  for (const char* policy : {"fcfs", "free", "abacus"}) {
    const SimResult result = RunLoad(MakeFile(0.7), Options(policy), 5, 20);
    ASSERT_GT(result.total.latency_ns.size(), 50u);
    EXPECT_NEAR(static_cast<double>(result.total.latency_ns.front()), 500e3, 1e3) << policy;
    EXPECT_NEAR(static_cast<double>(result.total.latency_ns[result.total.latency_ns.size() * 9 / 10]), 1000e3, 1e3)
        << policy;
  }
}

// 0.75 ms a query alone: one after another the GPU does 1333 a second, overlapped 1333 / 0.7.
TEST(Simulator, OverlapCarriesALoadThatOneAfterAnotherDoesNot) {
  const PredictorFile file = MakeFile(0.7, 0.02);
  for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
    SimOptions options = Options("abacus");
    options.scheduler.packing = packing;
    const SimResult abacus = RunLoad(file, options, 1450);
    EXPECT_LT(abacus.total.violation(), 0.02);
    EXPECT_GT(abacus.rounds_several, 0u);
    EXPECT_LT(static_cast<double>(abacus.rounds_over), 0.015 * static_cast<double>(abacus.rounds));
  }
  EXPECT_GT(RunLoad(file, Options("edf"), 1450).total.violation(), 0.08);
}

TEST(Simulator, WithoutGainAbacusRunsOneAfterAnother) {
  const SimResult abacus = RunLoad(MakeFile(1.1), Options("abacus"), 1000);
  EXPECT_EQ(abacus.rounds_several, 0u);
  EXPECT_EQ(abacus.total.latency_ns, RunLoad(MakeFile(1.1), Options("edf"), 1000).total.latency_ns);
}

// What a service really takes is learned, however far it is from what was measured.
TEST(Simulator, WrongSoloTimesDoNotRefuseGoodQueriesForGood) {
  for (const double takes : {0.1, 8.0}) {
    SimOptions options = Options("abacus");
    // The long model is said to take 1 ms; at a tenth of that its queries would all be refused.
    options.services = {{0, takes < 1 ? 500'000u : 30'000'000u, 0, takes}, {1, 30'000'000u}};
    const SimResult result = RunLoad(MakeFile(0.7, 0.02), options, 100, 20);
    // The first second refuses, until a query is let through.
    EXPECT_LT(result.total.violation(), 0.06) << takes;
  }
}

// A device that is a little slower for all, which no single round shows clearly.
TEST(Simulator, ASmallErrorThatAllServicesShareIsFollowed) {
  SimOptions options = Options("abacus");
  for (SimService& service : options.services) service.takes = 1.2;
  const SimResult slower = RunLoad(MakeFile(0.7, 0.02), options, 1000);
  EXPECT_LT(slower.total.violation(), 0.02);
  EXPECT_LT(static_cast<double>(slower.rounds_over), 0.05 * static_cast<double>(slower.rounds));
}

TEST(Simulator, ErrorsAreNamed) {
  SimOptions unknown = Options("abacus");
  unknown.scheduler.policy = "fifo";
  EXPECT_FALSE(Simulate(MakeFile(0.7), unknown, {}));
  PredictorFile broken = MakeFile(0.7);
  broken.layers.clear();
  EXPECT_FALSE(Simulate(broken, Options("abacus"), {}));
  for (const SimArrival& wrong : {SimArrival{0, 2, 1, 0}, SimArrival{0, 0, 0, 0}, SimArrival{0, 0, 1, 8}}) {
    EXPECT_FALSE(Simulate(MakeFile(0.7), Options("abacus"), std::vector<SimArrival>{wrong}));
  }
}

}  // namespace
}  // namespace abacus::bench
