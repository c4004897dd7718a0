// Whole load runs against a server in this process.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "client/load_generator.h"
#include "client/load_report.h"
#include "tests/client/fake_server.h"

namespace abacus {
namespace {

using namespace std::chrono_literals;

protocol::ModelDescription Model() {
  protocol::ModelDescription model;
  model.name = "m";
  model.inputs = {{"x", DType::kFloat32, {"batch", "4"}}};
  model.batch_sizes = {1, 2};
  model.qos_us = 10'000'000;
  return model;
}
LoadPlan Plan(double rate_per_s, double seconds) {
  LoadOptions options;
  options.rate_per_s = rate_per_s;
  options.seconds = seconds;
  return *PlanLoad({Model()}, {}, options);
}
std::unique_ptr<Client> ConnectTo(const FakeServer& server, std::chrono::milliseconds receive_timeout = 10s) {
  ClientOptions options;
  options.receive_timeout = receive_timeout;
  return std::move(*Client::Connect(server.address(), options));
}

TEST(LoadRun, EveryQueryIsSentAndCounted) {
  FakeServer server;
  const auto client = ConnectTo(server);
  const LoadPlan plan = Plan(500, 1.2);
  const std::atomic<bool> stop{false};
  std::atomic<int> progress_lines{0};
  const LoadOutcome outcome = RunLoad(*client, plan, stop, [&](const LoadProgress& p) {
    EXPECT_GE(p.sent, p.done);
    ++progress_lines;
  });
  EXPECT_GE(progress_lines, 1);
  EXPECT_FALSE(outcome.interrupted);
  EXPECT_GE(outcome.duration_s, 1.0);
  const LoadReport report = MakeReport(plan, outcome);
  EXPECT_EQ(report.total.sent, plan.arrivals.size());
  EXPECT_EQ(report.total.replies[0], plan.arrivals.size());
  EXPECT_EQ(report.total.lost, 0u);
  EXPECT_GT(report.total.latency.p50_us, 0);
  EXPECT_EQ(server.queries().size(), plan.arrivals.size());
}

TEST(LoadRun, SendingDoesNotWaitForReplies) {
  FakeServer server(FakeServer::Ignore);
  const auto client = ConnectTo(server, 600ms);
  const LoadPlan plan = Plan(200, 0.5);
  const std::atomic<bool> stop{false};
  const auto start = std::chrono::steady_clock::now();
  const LoadReport report = MakeReport(plan, RunLoad(*client, plan, stop, {}));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ(report.total.sent, plan.arrivals.size());
  EXPECT_EQ(report.total.lost, plan.arrivals.size());
  EXPECT_EQ(report.total.lost_by[static_cast<size_t>(StatusCode::kTimeout)], plan.arrivals.size());
  EXPECT_EQ(report.total.goodput_per_s, 0);
}

TEST(LoadRun, RejectionsAndDuplicatesAreSeen) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    if (query.header.id % 2 == 0) return FakeServer::Echo(self, query);
    protocol::Reply reply;
    reply.status = StatusCode::kOverloaded;
    self.Reply(query, reply);
    self.Reply(query, reply);
  });
  const auto client = ConnectTo(server);
  const LoadPlan plan = Plan(200, 0.5);
  const std::atomic<bool> stop{false};
  const LoadReport report = MakeReport(plan, RunLoad(*client, plan, stop, {}));
  EXPECT_EQ(report.total.rejected + report.total.replies[0], plan.arrivals.size());
  EXPECT_GT(report.total.rejected, 0u);
  EXPECT_GT(report.counters.duplicates, 0u);
  EXPECT_EQ(report.total.lost, 0u);
}

TEST(LoadRun, StopsEarlyAndStillReports) {
  FakeServer server;
  const auto client = ConnectTo(server);
  const LoadPlan plan = Plan(100, 60);
  std::atomic<bool> stop{false};
  const std::jthread stopper([&stop] {
    std::this_thread::sleep_for(200ms);
    stop = true;
  });
  const LoadOutcome outcome = RunLoad(*client, plan, stop, {});
  EXPECT_TRUE(outcome.interrupted);
  const LoadReport report = MakeReport(plan, outcome);
  EXPECT_LT(report.total.sent, 1000u);
  EXPECT_EQ(report.total.replies[0], report.total.sent);
}

TEST(LoadRun, WhatIsInFlightWhenItStopsIsCancelledAndNoViolation) {
  FakeServer server(FakeServer::Ignore);
  server.OnCancel([](FakeServer& self, const FakeServer::Incoming& cancel) {
    protocol::Reply reply;
    reply.status = StatusCode::kCancelled;
    self.Reply(cancel, reply);
  });
  const auto client = ConnectTo(server);
  const LoadPlan plan = Plan(100, 60);
  std::atomic<bool> stop{false};
  const std::jthread stopper([&stop] {
    std::this_thread::sleep_for(200ms);
    stop = true;
  });
  const LoadReport report = MakeReport(plan, RunLoad(*client, plan, stop, {}));
  EXPECT_GT(report.total.sent, 0u);
  EXPECT_EQ(report.total.replies[static_cast<size_t>(StatusCode::kCancelled)], report.total.sent);
  EXPECT_EQ(report.total.rejected, 0u);
  EXPECT_EQ(report.total.lost, 0u);
}

}  // namespace
}  // namespace abacus
