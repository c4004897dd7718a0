// What a comparison is put together of: policies by name, workloads, and the search for the highest load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "bench/limit.h"
#include "bench/policy_choice.h"
#include "bench/workload.h"

namespace abacus::bench {
namespace {

using ::testing::HasSubstr;

TEST(HighestLoad, IsFoundFromAnyStartToThePrecision) {
  for (const double edge : {0.02, 0.9, 1.0, 7.3, 60.0}) {
    for (const double start : {0.1, 1.0, 30.0}) {
      int runs = 0;
      const auto found = HighestLoad({.start = start}, [&](double load) -> Result<bool> {
        ++runs;
        return load <= edge;
      });
      ASSERT_TRUE(found);
      EXPECT_LE(*found, edge);
      EXPECT_GE(*found, edge / 1.006);
      EXPECT_LE(runs, 22) << edge << " from " << start;
    }
  }
}

TEST(HighestLoad, AllNoneAndErrors) {
  EXPECT_EQ(HighestLoad({}, [](double) -> Result<bool> { return false; }).value(), 0);
  EXPECT_EQ(HighestLoad({}, [](double) -> Result<bool> { return true; }).value(), 100);
  EXPECT_FALSE(HighestLoad({}, [](double) -> Result<bool> { return Error(StatusCode::kInternal, "broken"); }));
}

TEST(PolicyChoice, NameBatchingAndDelay) {
  const auto plain = ParsePolicyChoice("edf"), off = ParsePolicyChoice("abacus:off"),
             delay = ParsePolicyChoice("delay-free:2ms");
  ASSERT_TRUE(plain && off && delay);
  EXPECT_EQ(plain->batching, Batching::kGreedy);
  EXPECT_EQ(off->batching, Batching::kOff);
  EXPECT_EQ(off->name, "abacus");
  SchedulerConfig config;
  delay->Apply(&config);
  EXPECT_EQ(config.policy, "delay-free");
  EXPECT_EQ(config.max_queue_delay_us, 2000u);
  for (const char* wrong : {"", "fifo", "edf:on", "edf:1ms", "delay:1", "delay:1h"}) {
    const auto choice = ParsePolicyChoice(wrong);
    ASSERT_FALSE(choice) << wrong;
    EXPECT_THAT(choice.error().message(), HasSubstr("NAME[:off][:DELAY] with NAME one of abacus, ")) << wrong;
  }
}

TEST(PolicyChoice, AllIsEveryPolicyAndAbacusWithoutBatches) {
  const auto all = ParsePolicyChoices({"all"});
  ASSERT_TRUE(all);
  std::vector<std::string> texts;
  for (const PolicyChoice& choice : *all) texts.push_back(choice.text);
  for (const std::string_view name : kPolicyNames) EXPECT_THAT(texts, testing::Contains(name));
  EXPECT_THAT(texts, testing::IsSupersetOf({"abacus:off", "delay:1ms", "delay:2ms", "delay-free:1ms"}));
}

// "image" takes 100 us and 10 a row, "text" twice that and is 8 or 32 long.
PredictorFile MakeFile() {
  PredictorFile file;
  for (const std::string name : {"image", "text"}) {
    ModelProfile model;
    model.name = name;
    for (const int64_t batch : {1, 4, 8}) {
      for (const int64_t sequence : name == "text" ? std::vector<int64_t>{8, 32} : std::vector<int64_t>{0}) {
        const double whole_us =
            (name == "text" ? 2 : 1) * (100 + 10.0 * static_cast<double>(batch)) + (sequence == 32 ? 50 : 0);
        model.buckets.push_back({batch, sequence, 1, {0, 1}, {0, whole_us}});
      }
    }
    file.subject.models.push_back(model);
  }
  return file;
}

WorkloadOptions Both() {
  WorkloadOptions options;
  options.models = {"text", "image"};
  return options;
}

TEST(Workload, ALoadOfOneIsOneQueryAfterAnother) {
  EXPECT_NEAR(MakeWorkload(MakeFile(), Both())->mean_solo_s(), (270 + 110) / 2 * 1e-6, 1e-9);
  WorkloadOptions options = Both();
  options.rows = "1,3";
  options.lengths = "all";
  options.shares = {1, 3};
  const double text_us = (220 + 270 + 280 + 330) / 4.0, image_us = (110 + 140) / 2.0;
  const auto workload = MakeWorkload(MakeFile(), options);
  ASSERT_TRUE(workload);
  EXPECT_NEAR(workload->mean_solo_s(), (text_us + 3 * image_us) / 4 * 1e-6, 1e-9);
  EXPECT_EQ(workload->services()[0].model, 1u);
  // The default target: twice the slowest, which is 8 rows of 32.
  EXPECT_EQ(workload->services()[0].qos_ns, 2 * 410'000u);
  // More rows than the largest batch run in parts.
  options = Both();
  options.models = {"image"};
  options.rows = "20";
  EXPECT_NEAR(MakeWorkload(MakeFile(), options)->mean_solo_s(), (180 + 180 + 140) * 1e-6, 1e-9);
}

TEST(Workload, ATraceIsStretchedToTheRate) {
  const std::string path = testing::TempDir() + "comparison_test.csv";
  std::ofstream(path) << "at_s,service,rows,sequence\n0.5,image,4,\n1,text,1,8\n2,text,1,\n";
  WorkloadOptions options = Both();
  options.arrivals = path;
  options.qos_ns = {5'000'000, 7'000'000};
  const auto workload = MakeWorkload(MakeFile(), options);
  ASSERT_TRUE(workload) << workload.error().message();
  EXPECT_EQ(workload->recorded_rate_per_s(), 1.5);
  EXPECT_NEAR(workload->mean_solo_s(), (140 + 220 + 270) / 3 * 1e-6, 1e-9);
  EXPECT_EQ(workload->services()[1].qos_ns, 7'000'000u);
  const std::vector<SimArrival> recorded = {
      {500'000'000, 1, 4, 0}, {1'000'000'000, 0, 1, 8}, {2'000'000'000, 0, 1, 32}};
  EXPECT_EQ(workload->At(1.5, 1, 1).value(), recorded);
  EXPECT_EQ(workload->At(3, 1, 1).value()[2], (SimArrival{1'000'000'000, 0, 1, 32}));
  options.models = {"text"};
  options.qos_ns.clear();
  EXPECT_THAT(MakeWorkload(MakeFile(), options).error().message(), HasSubstr("arrivals of image, which is none of"));
  std::remove(path.c_str());
}

TEST(Workload, WhatDoesNotFitIsNamed) {
  const auto error_of = [](const auto& change) {
    WorkloadOptions options = Both();
    change(&options);
    const auto workload = MakeWorkload(MakeFile(), options);
    return workload ? std::string("no error") : workload.error().message();
  };
  EXPECT_THAT(error_of([](auto* o) { o->models = {"nobody"}; }), HasSubstr("no model \"nobody\"; it has image text"));
  EXPECT_THAT(error_of([](auto* o) { o->models = {"text", "text"}; }), HasSubstr("twice"));
  EXPECT_THAT(error_of([](auto* o) { o->rows = "1,x"; }), HasSubstr("rows '1,x'"));
  EXPECT_THAT(error_of([](auto* o) { o->rows = "0"; }), HasSubstr("rows '0'"));
  EXPECT_THAT(error_of([](auto* o) { o->lengths = "64"; }), HasSubstr("the longest of text is 32"));
  EXPECT_THAT(error_of([](auto* o) { o->shares = {1}; }), HasSubstr("as many shares as models"));
  EXPECT_THAT(error_of([](auto* o) { o->shares = {1, 0}; }), HasSubstr("positive"));
  EXPECT_THAT(error_of([](auto* o) { o->qos_ns = {1, 2, 3}; }), HasSubstr("latency target"));
  EXPECT_THAT(error_of([](auto* o) { o->arrivals = "burst"; }), HasSubstr("poisson, bursts, diurnal or a file"));
}

}  // namespace
}  // namespace abacus::bench
