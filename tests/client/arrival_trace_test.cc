#include "client/arrival_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "client/load_generator.h"

namespace abacus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ArrivalTrace, ColumnsMayBeMissingOrEmpty) {
  const auto two = ParseArrivalTrace("at_s,service\n0,a\n0.5,b\n0.5,a\n", "t.csv");
  ASSERT_TRUE(two) << two.error().message();
  EXPECT_THAT(two->services, ElementsAre("a", "b"));
  EXPECT_THAT(two->arrivals, ElementsAre(TraceArrival{0, 0, 1, 0}, TraceArrival{500'000'000, 1, 1, 0},
                                         TraceArrival{500'000'000, 0, 1, 0}));
  EXPECT_EQ(two->seconds(), 0.5);
  const auto four = ParseArrivalTrace(
      "\xef\xbb\xbf"
      "at_s, service, rows, sequence\r\n# a comment\r\n\r\n1e-3, a, 4, 16\r\n0.002,a,,\r\n0.003,a,0,0",
      "t.csv");
  ASSERT_TRUE(four) << four.error().message();
  EXPECT_THAT(four->arrivals, ElementsAre(TraceArrival{1'000'000, 0, 4, 16}, TraceArrival{2'000'000, 0, 1, 0},
                                          TraceArrival{3'000'000, 0, 1, 0}));
}

TEST(ArrivalTrace, ErrorsNameFileLineAndColumn) {
  const auto error_of = [](const std::string& text) {
    const auto trace = ParseArrivalTrace(text, "t.csv");
    return trace ? std::string("no error") : trace.error().message();
  };
  EXPECT_THAT(error_of(""), HasSubstr("the file is empty"));
  EXPECT_THAT(error_of("0,a\n"),
              HasSubstr("t.csv:1: the first line names the columns: at_s,service[,rows[,sequence]]"));
  EXPECT_THAT(error_of("at_s,service,sequence\n0,a,8\n"), HasSubstr("t.csv:1:"));
  EXPECT_THAT(error_of("at_s,service\n"), HasSubstr("no arrivals"));
  EXPECT_THAT(error_of("at_s,service\n0,a,1\n"), HasSubstr("t.csv:2: has 3 columns, the first line names 2"));
  EXPECT_THAT(error_of("at_s,service\n0,a\n1,\n"), HasSubstr("t.csv:3: column service"));
  EXPECT_THAT(error_of("at_s,service\n1,a\n0.9,a\n"), HasSubstr("t.csv:3: column at_s: '0.9' is before"));
  for (const char* time : {"", "x", "-1", "nan", "inf", "1s", "1e30"}) {
    EXPECT_THAT(error_of("at_s,service\n" + std::string(time) + ",a\n"), HasSubstr("t.csv:2: column at_s")) << time;
  }
  for (const char* rows : {"-1", "1.5", "x", "99999999999"}) {
    EXPECT_THAT(error_of("at_s,service,rows\n0,a," + std::string(rows) + "\n"), HasSubstr("column rows")) << rows;
  }
  EXPECT_THAT(error_of("at_s,service,rows,sequence\n0,a,1,long\n"), HasSubstr("column sequence: 'long'"));
}

TEST(ArrivalTrace, WhatIsWrittenIsReadToTheNanosecond) {
  ArrivalTrace trace{{"a", "b"}, {{0, 0, 1, 0}, {1, 1, 7, 0}, {3'600'000'000'001, 0, 1, 64}}};
  const std::string path = testing::TempDir() + "arrival_trace_test.csv";
  std::ofstream(path) << FormatArrivalTrace(trace);
  const auto read = ReadArrivalTrace(path);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->services, trace.services);
  EXPECT_EQ(read->arrivals, trace.arrivals);
  std::remove(path.c_str());
  EXPECT_THAT(ReadArrivalTrace(path).error().message(), HasSubstr(path));
}

class PlanTraceTest : public ::testing::Test {
 protected:
  PlanTraceTest() {
    protocol::ModelDescription image;
    image.name = "image";
    image.inputs = {{"x", DType::kFloat32, {"batch", "3"}}};
    image.batch_sizes = {1, 4};
    image.qos_us = 20'000;
    protocol::ModelDescription text = image;
    text.name = "text";
    text.inputs = {{"ids", DType::kInt64, {"batch", "sequence"}}};
    text.sequence_lengths = {16, 32};
    protocol::ModelDescription whole = image;
    whole.name = "whole";
    whole.batchable = false;
    models_ = {image, text, whole};
  }
  Result<LoadPlan> Plan(const std::string& lines) const {
    return PlanTrace(models_, ParseArrivalTrace("at_s,service,rows,sequence\n" + lines, "t").value(), {.seed = 3});
  }
  std::vector<protocol::ModelDescription> models_;
};

TEST_F(PlanTraceTest, EveryArrivalIsAQueryOfItsSize) {
  const auto plan = Plan("0,text,2,\n0.25,image,1,\n0.5,text,1,7\n0.75,text,2,32\n1,image,9,\n");
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->arrivals.size(), 5u);
  std::vector<std::string> sent;
  for (const LoadArrival& arrival : plan->arrivals) {
    const LoadChoice& choice = plan->choices[arrival.choice];
    sent.push_back(plan->services[choice.service].name + " " + choice.request.inputs[0].shape.ToString());
  }
  const std::string longest = "text " + Shape{2, 32}.ToString();
  EXPECT_THAT(sent, ElementsAre(longest, "image " + Shape{1, 3}.ToString(), "text " + Shape{1, 7}.ToString(), longest,
                                "image " + Shape{9, 3}.ToString()));
  EXPECT_EQ(plan->choices.size(), 4u) << "queries of one size share their payload";
  EXPECT_EQ(plan->arrivals[2].at_ns, 500'000'000u);
  EXPECT_EQ(plan->options.rate_per_s, 5);
  EXPECT_EQ(plan->services[0].qos_us, 20'000u);
}

TEST_F(PlanTraceTest, WhatTheServerDoesNotTakeIsNamed) {
  const auto error_of = [&](const std::string& lines) {
    const auto plan = Plan(lines);
    return plan ? std::string("no error") : plan.error().message();
  };
  EXPECT_THAT(error_of("0,nobody,1,\n"), HasSubstr("no model 'nobody'; the server has image, text, whole"));
  EXPECT_THAT(error_of("0,image,1,8\n"), HasSubstr("the model has no sequence dimension"));
  EXPECT_THAT(error_of("0,text,1,33\n"), HasSubstr("sequence 33 is not between 1 and 32"));
  EXPECT_THAT(error_of("0,image,257,\n"), HasSubstr("rows 257 is not between 1 and 256"));
  EXPECT_THAT(error_of("0,whole,2,\n"), HasSubstr("rows 2 is no bucket"));
}

}  // namespace
}  // namespace abacus
