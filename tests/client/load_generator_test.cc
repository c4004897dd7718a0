#include "client/load_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "client/load_report.h"

namespace abacus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<protocol::ModelDescription> Models() {
  protocol::ModelDescription image;
  image.name = "image";
  image.inputs = {{"x", DType::kFloat32, {"batch", "3", "4"}}};
  image.batch_sizes = {1, 2, 4};
  image.qos_us = 50'000;
  protocol::ModelDescription text;
  text.name = "text";
  text.inputs = {{"ids", DType::kInt64, {"batch", "sequence"}, true, 10, 19},
                 {"half", DType::kFloat16, {"batch"}},
                 {"brain", DType::kBFloat16, {"batch"}},
                 {"mask", DType::kBool, {"batch", "sequence"}}};
  text.batch_sizes = {1, 8};
  text.sequence_lengths = {16, 32};
  text.qos_us = 100'000;
  return {image, text};
}

LoadOptions Options(double rate_per_s, double seconds, uint64_t seed = 1) {
  LoadOptions options;
  options.rate_per_s = rate_per_s;
  options.seconds = seconds;
  options.seed = seed;
  return options;
}

TEST(LoadServiceSyntax, FullAndShort) {
  const auto full = ParseLoadService("bert:weight=2.5:batch=1,2:seq=8,16");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->name, "bert");
  EXPECT_EQ(full->weight, 2.5);
  EXPECT_THAT(full->batches, ElementsAre(1, 2));
  EXPECT_THAT(full->sequences, ElementsAre(8, 16));
  const auto bare = ParseLoadService("resnet50");
  ASSERT_TRUE(bare);
  EXPECT_EQ(bare->weight, 1);
  EXPECT_TRUE(bare->batches.empty());
}

TEST(LoadServiceSyntax, ErrorsShowTheSyntax) {
  for (const char* bad : {"", ":batch=1", "m:batch=", "m:batch=0", "m:batch=1,", "m:batch=a", "m:seq=1;2", "m:weight=0",
                          "m:weight=-1", "m:weight=nan", "m:weight=", "m:speed=1", "m:batch"}) {
    const auto service = ParseLoadService(bad);
    ASSERT_FALSE(service) << bad;
    EXPECT_THAT(service.error().message(), HasSubstr("NAME[:weight=W]")) << bad;
  }
}

TEST(LoadPlanning, FloatsStayInsideTheirRange) {
  const std::vector<std::pair<double, double>> ranges = {
      {0.01, 1.0}, {-3, -2}, {0, 60'000}, {-1e-7, 1e-7}, {-1e39, 1e39}};
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    for (const auto& [low, high] : ranges) {
      protocol::ModelDescription model;
      model.name = "m";
      model.batch_sizes = {500};
      model.inputs = {{"x", dtype, {"batch"}}};
      model.inputs[0].has_float_range = true;
      model.inputs[0].float_low = low;
      model.inputs[0].float_high = high;
      const auto plan = PlanLoad({model}, {}, Options(10, 1));
      ASSERT_TRUE(plan);
      const Tensor& x = plan->choices[0].request.inputs[0];
      double smallest = high, largest = low;
      for (size_t i = 0; i < 500; ++i) {
        const double value = ElementAt(dtype, x.bytes, i);
        ASSERT_TRUE(value >= low && value <= high) << DTypeName(dtype) << " " << value;
        smallest = std::min(smallest, value);
        largest = std::max(largest, value);
      }
      if (high < 1e5) {
        EXPECT_GT(largest - smallest, 0.5 * (high - low)) << DTypeName(dtype) << " " << low;
      }
    }
  }
}

TEST(LoadPlanning, ALengthIsNoLongerThanItsSequence) {
  auto models = Models();
  models[1].inputs[0] = {"lengths", DType::kInt64, {"batch"}, true, 1, 32, true};
  const auto plan = PlanLoad(models, {{"text", 1, {8}, {5}}}, Options(10, 1));
  ASSERT_TRUE(plan);
  for (const int64_t length : plan->choices[0].request.inputs[0].ToVector<int64_t>()) {
    EXPECT_TRUE(length >= 1 && length <= 5) << length;
  }
}

TEST(LoadPlanning, ModelsThatAreNotPaddedGetTheirBucketsOnly) {
  auto models = Models();
  models[1].batchable = false;
  models[1].sequence_padding = "exact";
  EXPECT_TRUE(PlanLoad(models, {{"text", 1, {8}, {16}}}, Options(10, 1)));
  EXPECT_THAT(PlanLoad(models, {{"text", 1, {4}, {16}}}, Options(10, 1)).error().message(),
              HasSubstr("batch 4 is no bucket"));
  EXPECT_THAT(PlanLoad(models, {{"text", 1, {8}, {17}}}, Options(10, 1)).error().message(),
              HasSubstr("seq 17 is no bucket"));
}

TEST(LoadPlanning, SamePlanForTheSameSeed) {
  const auto a = PlanLoad(Models(), {}, Options(100, 5, 7));
  const auto b = PlanLoad(Models(), {}, Options(100, 5, 7));
  const auto c = PlanLoad(Models(), {}, Options(100, 5, 8));
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->arrivals, b->arrivals);
  EXPECT_NE(a->arrivals, c->arrivals);
  ASSERT_EQ(a->choices.size(), b->choices.size());
  for (size_t i = 0; i < a->choices.size(); ++i) {
    for (size_t k = 0; k < a->choices[i].request.inputs.size(); ++k) {
      EXPECT_TRUE(std::ranges::equal(a->choices[i].request.inputs[k].bytes, b->choices[i].request.inputs[k].bytes));
    }
  }
}

TEST(LoadPlanning, TheFirstArrivalsArePinned) {
  // The same on every machine and in every release: recorded runs name only their seed.
  const auto plan = PlanLoad(Models(), {}, Options(100, 5, 1));
  ASSERT_TRUE(plan);
  ASSERT_GE(plan->arrivals.size(), 3u);
  EXPECT_EQ(plan->arrivals.size(), 480u);
  EXPECT_EQ(plan->arrivals[0], (LoadArrival{1437279, 0}));
  EXPECT_EQ(plan->arrivals[1], (LoadArrival{1649763, 0}));
  EXPECT_EQ(plan->arrivals[2], (LoadArrival{8012747, 2}));
}

TEST(LoadPlanning, ArrivalsAreAPoissonProcess) {
  const double rate = 1000;
  const auto plan = PlanLoad(Models(), {}, Options(rate, 60, 3));
  ASSERT_TRUE(plan);
  const auto n = static_cast<double>(plan->arrivals.size());
  EXPECT_NEAR(n, 60'000, 5 * std::sqrt(60'000));
  double sum = 0, squares = 0;
  uint64_t last_ns = 0;
  size_t below_mean = 0;
  for (const LoadArrival& arrival : plan->arrivals) {
    ASSERT_GE(arrival.at_ns, last_ns);
    const double gap_s = static_cast<double>(arrival.at_ns - last_ns) / 1e9;
    last_ns = arrival.at_ns;
    sum += gap_s;
    squares += gap_s * gap_s;
    if (gap_s < 1 / rate) ++below_mean;
  }
  const double mean = sum / n;
  const double deviation = std::sqrt(squares / n - mean * mean);
  EXPECT_NEAR(mean * rate, 1, 0.03);
  EXPECT_NEAR(deviation / mean, 1, 0.03) << "exponential gaps";
  EXPECT_NEAR(static_cast<double>(below_mean) / n, 1 - std::exp(-1), 0.01);
  EXPECT_LT(last_ns, 60e9);
}

TEST(LoadPlanning, WeightsAndBucketsAreRespected) {
  const auto plan = PlanLoad(Models(), {{"text", 3, {1}, {}}, {"image", 1, {}, {}}}, Options(1000, 40, 5));
  ASSERT_TRUE(plan);
  std::map<uint32_t, double> by_choice;
  for (const LoadArrival& arrival : plan->arrivals)
    by_choice[arrival.choice] += 1 / static_cast<double>(plan->arrivals.size());
  ASSERT_EQ(plan->choices.size(), 5u);
  for (size_t i = 0; i < plan->choices.size(); ++i) {
    const LoadChoice& choice = plan->choices[i];
    const bool text = plan->services[choice.service].name == "text";
    EXPECT_NEAR(by_choice[static_cast<uint32_t>(i)], text ? 0.75 / 2 : 0.25 / 3, 0.01);
    EXPECT_TRUE(!text || choice.batch == 1);
  }
}

TEST(LoadPlanning, PayloadsAreValid) {
  const auto plan = PlanLoad(Models(), {}, Options(10, 1));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->services[0].qos_us, 50'000u);
  for (const LoadChoice& choice : plan->choices) {
    EXPECT_FALSE(choice.request.synthetic);
    for (const Tensor& tensor : choice.request.inputs) {
      ASSERT_EQ(tensor.bytes.size(), TensorBytes(tensor.dtype, tensor.shape));
      EXPECT_EQ(tensor.shape[0], choice.batch);
      const double low = tensor.name == "ids" ? 10 : tensor.name == "mask" ? 0 : -1;
      const double high = tensor.name == "ids" ? 19 : 1;
      for (size_t i = 0; i < *tensor.shape.Elements(); ++i) {
        const double value = ElementAt(tensor.dtype, tensor.bytes, i);
        EXPECT_TRUE(value >= low && value <= high) << tensor.name << " " << value;
      }
    }
  }
}

TEST(LoadPlanning, SyntheticQueriesAndTargets) {
  LoadOptions options = Options(10, 1);
  options.payload = false;
  options.qos_us = 777;
  const auto plan = PlanLoad(Models(), {{"text", 1, {8}, {32}}}, options);
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->choices.size(), 1u);
  const InferRequest& request = plan->choices[0].request;
  EXPECT_TRUE(request.inputs.empty());
  ASSERT_TRUE(request.synthetic);
  EXPECT_EQ(request.synthetic->batch, 8u);
  EXPECT_EQ(request.synthetic->sequence, 32u);
  EXPECT_EQ(request.qos_us, 777u);
  EXPECT_EQ(plan->services[0].qos_us, 777u);
}

TEST(LoadPlanning, ErrorsNameTheService) {
  const auto why = [](std::vector<LoadService> services) {
    const auto plan = PlanLoad(Models(), std::move(services), Options(10, 1));
    return plan ? "was planned" : plan.error().message();
  };
  EXPECT_EQ(why({{"vgg", 1, {}, {}}}), "no model 'vgg'; the server has image, text");
  EXPECT_EQ(why({{"image", 1, {5}, {}}}), "service 'image': batch 5 is not between 1 and 4");
  EXPECT_EQ(why({{"image", 1, {}, {16}}}), "service 'image': seq 16: the model has no sequence dimension");
  EXPECT_EQ(why({{"image", 1, {3}, {}}}), "was planned") << "the server pads to the next bucket";
  EXPECT_FALSE(PlanLoad({}, {}, Options(10, 1)));
  EXPECT_FALSE(PlanLoad(Models(), {}, Options(0, 1)));
  EXPECT_FALSE(PlanLoad(Models(), {}, Options(1e9, 1e9)));
}

TEST(LoadPercentiles, NearestRank) {
  EXPECT_EQ(PercentileOf({}, 0.5), 0u);
  const std::vector<uint64_t> one = {7};
  for (double q : {0.0, 0.5, 1.0}) EXPECT_EQ(PercentileOf(one, q), 7u);
  std::vector<uint64_t> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i + 1;
  EXPECT_EQ(PercentileOf(values, 0.5), 500u);
  EXPECT_EQ(PercentileOf(values, 0.9), 900u);
  EXPECT_EQ(PercentileOf(values, 0.99), 990u);
  EXPECT_EQ(PercentileOf(values, 0.999), 999u);
  EXPECT_EQ(PercentileOf(values, 1), 1000u);
  const Percentiles p = PercentilesOf({3'000, 1'000, 2'000});
  EXPECT_EQ(p.p50_us, 2);
  EXPECT_EQ(p.max_us, 3);
}

TEST(LoadReports, CountEveryKindOfOutcome) {
  LoadPlan plan;
  plan.options = Options(5, 2, 42);
  plan.services = {{"a", 1'000}, {"b", 0}};
  plan.arrivals.resize(7);
  LoadOutcome outcome;
  outcome.duration_s = 2;
  outcome.counters.duplicates = 3;
  outcome.records = {
      {0, true, true, StatusCode::kOk, 10'000, 1'000'000},        // in time, exactly
      {0, true, true, StatusCode::kOk, 20'000, 1'000'001},        // late
      {0, true, true, StatusCode::kOverloaded, 0, 5'000},         // rejected
      {0, true, false, StatusCode::kTimeout, 0, 10'000'000'000},  // lost
      {1, true, true, StatusCode::kOk, 0, 5'000'000'000},         // no target: never late
      {1, true, false, StatusCode::kUnavailable, 0, 1'000'000},   // lost
      {1, false, false, StatusCode::kOk, 0, 0},                   // never sent
  };
  const LoadReport report = MakeReport(plan, outcome);
  EXPECT_EQ(report.planned, 7u);
  EXPECT_EQ(report.total.sent, 6u);
  EXPECT_EQ(report.total.lost, 2u);
  EXPECT_EQ(report.total.late, 1u);
  EXPECT_EQ(report.total.rejected, 1u);
  EXPECT_EQ(report.total.throughput_per_s, 1.5);
  EXPECT_EQ(report.total.goodput_per_s, 1);
  ASSERT_EQ(report.services.size(), 2u);
  EXPECT_EQ(report.services[0].latency.max_us, 1000.001);
  EXPECT_EQ(report.services[1].late, 0u);
  EXPECT_EQ(report.lateness.max_us, 20);

  const auto json = nlohmann::json::parse(ToJson(report));
  EXPECT_EQ(json["seed"], 42);
  EXPECT_EQ(json["duplicates"], 3);
  EXPECT_EQ(json["total"]["replies"]["OK"], 3);
  EXPECT_EQ(json["total"]["replies"]["OVERLOADED"], 1);
  EXPECT_EQ(json["total"]["lost_by"]["TIMEOUT"], 1);
  EXPECT_EQ(json["services"][0]["violations"]["late"], 1);
  EXPECT_EQ(json["services"][0]["qos_us"], 1000);
  EXPECT_THAT(ToTable(report), HasSubstr("lost to UNAVAILABLE: 1"));
  EXPECT_THAT(ToTable(report), HasSubstr("dropped replies: 3 duplicate"));
}

}  // namespace
}  // namespace abacus
