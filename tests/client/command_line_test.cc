// The abacus-client program against a server in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "client/npy.h"
#include "tests/client/fake_lease_server.h"
#include "tests/client/fake_server.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class CommandLine : public ::testing::Test {
 protected:
  struct Output {
    int exit_code = -1;
    std::string text;  // standard output
  };

  CommandLine() : directory_(::testing::TempDir() + "command_line_test_" + std::to_string(::getpid())) {
    std::filesystem::create_directories(directory_);
    protocol::ModelDescription model;
    model.name = "m";
    model.inputs = {{"x", DType::kFloat32, {"batch", "2"}}};
    model.outputs = {{"y", DType::kFloat32, {"batch", "2"}}};
    model.batch_sizes = {1, 2};
    model.qos_us = 5'000'000;
    server_.SetModels({model});
  }
  ~CommandLine() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return (directory_ / name).string(); }
  Output Run(const std::string& arguments, const std::string& address, const std::string& prefix = "") const {
    const std::string command =
        prefix + ABACUS_BIN_DIR + "/abacus-client --address " + address + " " + arguments + " 2>/dev/null";
    FILE* pipe = popen(command.c_str(), "r");
    Output output;
    for (int c = std::getc(pipe); c != EOF; c = std::getc(pipe)) output.text += static_cast<char>(c);
    output.exit_code = WEXITSTATUS(pclose(pipe));
    return output;
  }
  Output Run(const std::string& arguments) const { return Run(arguments, server_.address()); }
  // With a Ctrl-C after a second.
  Output RunInterrupted(const std::string& arguments) const {
    return Run(arguments, server_.address(), "timeout --foreground --preserve-status -s INT 1 ");
  }
  // Models that are answered only when they are cancelled.
  void HoldAllQueries() {
    hold_ = true;
    server_.OnCancel([](FakeServer& self, const FakeServer::Incoming& cancel) {
      protocol::Reply reply;
      reply.status = StatusCode::kCancelled;
      self.Reply(cancel, reply);
    });
  }

  const std::filesystem::path directory_;
  std::atomic<bool> hold_{false};
  FakeServer server_{[this](FakeServer& self, const FakeServer::Incoming& query) {
    if (hold_) return;
    const auto& inputs = query.header.inputs;
    if (!inputs.empty() && !inputs[0].has_frame()) return self.Reply(query, {});  // OK, without outputs
    if (query.header.model == "m") return FakeServer::Echo(self, query);
    protocol::Reply reply;
    reply.status = StatusCode::kUnknownModel;
    reply.message = "no such model";
    self.Reply(query, reply);
  }};
};

TEST_F(CommandLine, InferWritesItsOutputs) {
  const std::vector<float> values = {1.5F, -2};
  const auto bytes = std::as_bytes(std::span(values));
  ASSERT_TRUE(WriteNpy(Path("in.npy"), Tensor::Own("x", DType::kFloat32, {1, 2}, {bytes.begin(), bytes.end()})).ok());
  const Output output =
      Run("--json infer --model m --repeat 2 --input x=" + Path("in.npy") + " --output-dir " + Path("out"));
  EXPECT_EQ(output.exit_code, 0);
  const Json json = Json::parse(output.text.substr(0, output.text.find('\n')));
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["timing"]["total_us"], 30);
  EXPECT_EQ(json["timing"]["executed_us"], 20);
  EXPECT_EQ(json["outputs"][0]["first_values"], Json({1.5, -2}));
  const auto written = ReadNpy(Path("out/x.npy"), "x");
  ASSERT_TRUE(written) << written.error().message();
  EXPECT_EQ(written->ToVector<float>(), values);
  EXPECT_EQ(server_.queries().size(), 2u);
}

TEST_F(CommandLine, InferInText) {
  const Output output = Run("infer --model m --synthetic 2x16 --qos-us 9000");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.text, HasSubstr("OK"));
  EXPECT_THAT(output.text, HasSubstr("0.03 ms in the server: queued 0.01 ms, executed 0.02 ms in 1 rounds"));
  EXPECT_EQ(server_.queries()[0].header.sequence, 16u);
  EXPECT_EQ(server_.queries()[0].header.qos_us, 9'000u);
}

TEST_F(CommandLine, DurationsHaveUnits) {
  const std::vector<std::pair<std::string, uint64_t>> targets = {
      {"--qos 50ms", 50'000}, {"--qos 2.5s", 2'500'000}, {"--qos '800 us'", 800},    {"--qos 1min", 60'000'000},
      {"--qos-us 50", 50},    {"--qos-us 50ms", 50'000}, {"--qos 1h", 3'600'000'000}};
  for (const auto& [option, qos_us] : targets) {
    EXPECT_EQ(Run("infer --model m --synthetic 1 --timeout 5s " + option).exit_code, 0) << option;
    EXPECT_EQ(server_.queries().back().header.qos_us, qos_us) << option;
  }
  EXPECT_EQ(Run("load --rate 50 --duration 200ms --qos 50ms --no-payload").exit_code, 0);
  EXPECT_EQ(server_.queries().back().header.qos_us, 50'000u);
  EXPECT_EQ(Run("--timeout-s 1.5 load --rate 50 --seconds 0.2 --no-payload").exit_code, 0);
}

TEST_F(CommandLine, DurationsThatMeanNothingAreRefusedBeforeAnythingIsSent) {
  for (const char* option : {"--qos 50",
                             "--qos -1ms",
                             "--qos 0s",
                             "--qos 2h",
                             "--qos 999999999999999999999h",
                             "--qos inf",
                             "--qos ''",
                             "--qos-us -1",
                             "--qos-us 0",
                             "--qos-us 9223372036854775808",
                             "--qos-us 18446744073709551615",
                             "--qos-us nan",
                             "--qos-us 1e3",
                             "--qos 5ms --qos-us 5000",
                             "--timeout 10",
                             "--timeout 0s",
                             "--timeout-s nan",
                             "--timeout-s inf",
                             "--timeout-s -1",
                             "--timeout-s 1e9",
                             "--timeout 1s --timeout-s 1",
                             "--repeat -1",
                             "--repeat 0"}) {
    EXPECT_NE(Run(std::string("infer --model m --synthetic 1 ") + option).exit_code, 0) << option;
  }
  for (const char* option : {"--seconds nan", "--seconds -1", "--seconds inf", "--duration 5", "--rate nan"}) {
    EXPECT_NE(Run(std::string("load --no-payload --rate 1 ") + option).exit_code, 0) << option;
  }
  EXPECT_TRUE(server_.queries().empty());
}

TEST_F(CommandLine, FailuresHaveAnExitCode) {
  const Output unknown = Run("--json infer --model other --synthetic 1");
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(Json::parse(unknown.text)["status"], "UNKNOWN_MODEL");
  EXPECT_EQ(Run("infer --model m --input x=/nonexistent.npy").exit_code, 1);
  const Output nobody = Run("--json --timeout-s 0.1 health", "tcp://127.0.0.1:1");
  EXPECT_EQ(nobody.exit_code, 1);
  EXPECT_EQ(Json::parse(nobody.text)["status"], "UNAVAILABLE");
  EXPECT_NE(Run("no-such-command").exit_code, 0);
  EXPECT_EQ(Run("load --rate 10 --seconds 0.1 --service other").exit_code, 1);
}

TEST_F(CommandLine, ModelsAndHealth) {
  EXPECT_THAT(Run("models").text, HasSubstr("m: target 5s, batch 1, 2\n"));
  EXPECT_THAT(Run("models").text, HasSubstr("x float32[batch, 2]"));
  EXPECT_EQ(Json::parse(Run("models --json").text)["models"][0]["batch"], Json({1, 2}));
  EXPECT_EQ(Run("health").exit_code, 0);
  EXPECT_EQ(Json::parse(Run("--json health").text)["ready"], true);
  server_.SetReady(false);
  EXPECT_EQ(Run("health").exit_code, 1);
}

TEST_F(CommandLine, LoadReports) {
  const Output output =
      Run("--json load --rate 200 --seconds 0.5 --service m:batch=2 --seed 3 --out " + Path("load.json"));
  EXPECT_EQ(output.exit_code, 0);
  const Json json = Json::parse(output.text);
  EXPECT_EQ(json["total"]["lost"], 0);
  EXPECT_EQ(json["total"]["replies"]["OK"], json["planned"]);
  EXPECT_EQ(json["seed"], 3);
  EXPECT_TRUE(std::filesystem::exists(Path("load.json")));
  for (const auto& query : server_.queries()) EXPECT_EQ(query.header.inputs[0].shape, (Shape{2, 2}));
  EXPECT_THAT(Run("load --rate 50 --seconds 0.2 --no-payload").text, HasSubstr("goodput"));
}

TEST_F(CommandLine, LoadSendsWhatATraceSays) {
  const auto write = [&](const std::string& text) {
    std::ofstream(Path("trace.csv")) << text;
    return Path("trace.csv");
  };
  const std::string trace = write("at_s,service,rows\n0,m,2\n0.01,m,\n0.02,m,2\n");
  const Output output = Run("--json load --trace " + trace);
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(Json::parse(output.text)["total"]["replies"]["OK"], 3);
  std::vector<int64_t> rows;
  for (const auto& query : server_.queries()) rows.push_back(query.header.inputs[0].shape[0]);
  EXPECT_THAT(rows, ::testing::ElementsAre(2, 1, 2));
  // One of the two says when to send.
  for (const char* more : {" --rate 5", " --duration 1s", " --seconds 1", " --service m"}) {
    EXPECT_NE(Run("load --trace " + trace + more).exit_code, 0) << more;
  }
  EXPECT_NE(Run("load --seconds 0.1").exit_code, 0);
  EXPECT_EQ(Run("load --trace " + write("at_s,service\n0,nobody\n")).exit_code, 1);
}

TEST_F(CommandLine, LoadFromLeasedMemorySendsNoPayload) {
  const std::string load = "--json load --rate 200 --seconds 0.3 --lease";
  EXPECT_EQ(Run(load).exit_code, 1) << "the server gives no leases";
  FakeLeaseServer leases;
  server_.SetLease(leases.path());
  const Output output = Run(load);
  EXPECT_EQ(output.exit_code, 0);
  const Json json = Json::parse(output.text);
  EXPECT_EQ(json["total"]["replies"]["OK"], json["planned"]);
  ASSERT_FALSE(server_.queries().empty());
  for (const auto& query : server_.queries()) {
    EXPECT_TRUE(query.frames.empty());
    EXPECT_FALSE(query.header.inputs.at(0).has_frame());
  }
  EXPECT_TRUE(leases.WaitForLeases(0));
  EXPECT_EQ(Run(load + " --no-payload").exit_code, 1) << "there is nothing to lease memory for";
}

TEST_F(CommandLine, CtrlCCancelsTheQuery) {
  HoldAllQueries();
  const Output output = RunInterrupted("--json infer --model m --synthetic 1 --repeat 3");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(Json::parse(output.text)["status"], "CANCELLED");
  EXPECT_EQ(server_.queries().size(), 1u) << "and sends no other";
  EXPECT_EQ(server_.cancels().size(), 1u);
}

TEST_F(CommandLine, CtrlCCancelsTheLoadInFlight) {
  HoldAllQueries();
  const Output output = RunInterrupted("--json load --rate 100 --seconds 60 --no-payload");
  EXPECT_EQ(output.exit_code, 0);
  const Json json = Json::parse(output.text);
  EXPECT_EQ(json["total"]["replies"]["CANCELLED"], json["total"]["sent"]);
  EXPECT_EQ(json["total"]["lost"], 0);
  EXPECT_EQ(json["total"]["violations"]["rejected"], 0) << "they are nobody's fault";
}

}  // namespace
}  // namespace abacus
