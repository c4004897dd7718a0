// Start, drain, stop, and what a controller leaves behind however it ends.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "shm/process.h"
#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

// Runs a command line and returns its exit code and everything it printed.
std::pair<int, std::string> RunLine(const std::string& line) {
  FILE* pipe = popen((line + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[512];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), output};
}

// Submits image queries 0 .. count - 1 and waits until the controller has accepted them.
std::vector<std::future<Result<InferReply>>> SubmitAccepted(ControllerProcess& controller, Client* client, int count) {
  std::vector<std::future<Result<InferReply>>> replies;
  for (int i = 0; i < count; ++i) replies.push_back(client->Submit(ImageQuery(i)));
  EXPECT_TRUE(Eventually(kPatienceMs, [&] {
    return controller.region().worker(0).stats.accepted.load() == static_cast<uint64_t>(count);
  }));
  return replies;
}

std::string SegmentPath(const ControllerProcess& controller) { return "/dev/shm/abacus-" + controller.name(); }

TEST(Lifecycle, SigtermAnswersWhatIsInFlightAndLeavesNothing) {
  ControllerProcess controller(FakeServices("fcfs", 300'000));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  auto accepted = SubmitAccepted(controller, client.get(), 5);
  const pid_t worker = controller.worker_pid(0);
  controller.Signal(SIGTERM);
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.region().header().draining.load() == 1; }));
  const auto late = client->Infer(ImageQuery(9));
  ASSERT_TRUE(late);
  EXPECT_EQ(late->status.code(), StatusCode::kShuttingDown);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Echoes(accepted[static_cast<size_t>(i)].get(), ImageQuery(i))) << i;
  EXPECT_EQ(controller.WaitExit(30), 0);
  EXPECT_NE(access(SegmentPath(controller).c_str(), F_OK), 0);
  EXPECT_FALSE(ProcessStartTicks(worker).has_value());
}

TEST(Lifecycle, AnEndOfPatienceStillAnswersEverything) {
  ControllerProcess::Options options = FakeServices("fcfs", 1'500'000);
  options.server += "drain_timeout_ms = 50\n";
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  auto accepted = SubmitAccepted(controller, client.get(), 4);
  controller.Signal(SIGTERM);
  int shutting_down = 0;
  for (auto& future : accepted) {
    const auto reply = future.get();
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_FALSE(reply->status.ok());
    shutting_down += reply->status.code() == StatusCode::kShuttingDown;
  }
  EXPECT_EQ(shutting_down, 3) << "all but the one that ran";
  EXPECT_EQ(controller.WaitExit(30), 0);
}

TEST(Lifecycle, ASecondControllerOfTheSameNameIsRefused) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  const auto [code, output] = RunLine("ABACUS_RUN_DIR=" + controller.directory().string() + " " +
                                      controller.command()[0] + " --config " + controller.command()[2]);
  EXPECT_EQ(code, 1);
  EXPECT_THAT(output, testing::HasSubstr("runs already (pid " + std::to_string(controller.pid()) + ")"));
  // Another run directory does not get around it: the segment has a live owner.
  const auto elsewhere = controller.directory() / "elsewhere";
  std::filesystem::create_directory(elsewhere);
  std::filesystem::permissions(elsewhere, std::filesystem::perms::owner_all);
  const auto [code2, output2] = RunLine("ABACUS_RUN_DIR=" + elsewhere.string() + " " + controller.command()[0] +
                                        " --config " + controller.command()[2]);
  EXPECT_EQ(code2, 1);
  EXPECT_THAT(output2, testing::HasSubstr("belongs to a running controller"));
  const auto client = ConnectTo(controller.tcp());
  EXPECT_TRUE(Echoes(client->Infer(ImageQuery(1)), ImageQuery(1)));
}

TEST(Lifecycle, ATakenPortIsAClearError) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  const auto [code, output] =
      RunLine("ABACUS_RUN_DIR=" + controller.directory().string() + " " + controller.command()[0] + " --config " +
              controller.command()[2] + " --set server.name=" + controller.name() +
              "b --set server.listen=" + controller.tcp());
  EXPECT_EQ(code, 1);
  EXPECT_THAT(output, testing::HasSubstr("cannot listen on " + controller.tcp()));
}

TEST(Lifecycle, WorkersOfAKilledControllerExitAndTheNextStartIsClean) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  const pid_t worker = controller.worker_pid(0);
  controller.Signal(SIGKILL);
  EXPECT_EQ(controller.WaitExit(30), 128 + SIGKILL);
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return !ProcessStartTicks(worker).has_value(); })) << "an orphan stayed";
  ASSERT_EQ(access(SegmentPath(controller).c_str(), F_OK), 0) << "nobody could clean up";
  const std::string command = "ABACUS_RUN_DIR=" + controller.directory().string() + " timeout -s TERM 2 " +
                              controller.command()[0] + " --config " + controller.command()[2];
  const auto [code, output] = RunLine(command);
  EXPECT_THAT(output, testing::HasSubstr("service text is ready")) << output;
  EXPECT_THAT(output, testing::HasSubstr("stopped"));
  EXPECT_NE(access(SegmentPath(controller).c_str(), F_OK), 0);
}

TEST(Lifecycle, StatusIsReadFromOutside) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(client->Infer(ImageQuery(i)));
  const std::string status = std::string(ABACUS_BIN_DIR) + "/abacus-status --name " + controller.name();
  const auto [code, table] = RunLine(status);
  EXPECT_EQ(code, 0);
  EXPECT_THAT(table, testing::ContainsRegex("image +" + std::to_string(controller.worker_pid(0)) + " +serving +fake"));
  EXPECT_THAT(table,
              testing::HasSubstr("predictor: additive: no predictor file is configured\nno predicted rounds yet"))
      << "policy free has no rounds";
  const std::string json = RunLine(status + " --json").second;
  EXPECT_THAT(json, testing::HasSubstr("\"served\": 10"));
  EXPECT_THAT(json, testing::HasSubstr("\"trained\": false"));
  EXPECT_EQ(RunLine(std::string(ABACUS_BIN_DIR) + "/abacus-status --name nobody-here").first, 3);
}

TEST(Lifecycle, StatusSaysHowGoodPredictionsAre) {
  ControllerProcess controller(FakeServices("abacus", 1'000));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(client->Infer(ImageQuery(i)));
  const std::string status = std::string(ABACUS_BIN_DIR) + "/abacus-status --name " + controller.name();
  const std::string text = RunLine(status).second;
  EXPECT_THAT(text,
              testing::ContainsRegex("margin [0-9.]+ % of time \\+ 0.2 ms, error [0-9.]+ % over 20 rounds \\(0 of "
                                     "several ranges\\), [0-9.]+ % over prediction plus margin, 20 by the additive"));
  EXPECT_THAT(text, testing::ContainsRegex("predictions corrected by ([01].[0-9]+ ){4}\\(by ranges"));
  const std::string json = RunLine(status + " --json").second;
  EXPECT_THAT(json, testing::ContainsRegex("\"rounds\": 20,\n +\"rounds_over\": [0-9]+,\n +\"rounds_several\": 0,\n"
                                           " +\"rounds_untrained\": 20"));
}

TEST(Lifecycle, Sigusr1WritesTheTraceAndNothingElseChanges) {
  ControllerProcess controller(FakeServices("fcfs", 1'000));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(client->Infer(ImageQuery(i)));
  const auto trace = controller.directory() / controller.name() / "trace.json";
  controller.Signal(SIGUSR1);
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return std::filesystem::exists(trace); }));
  std::stringstream text;
  text << std::ifstream(trace).rdbuf();
  EXPECT_THAT(text.str(), testing::HasSubstr("\"round 5\""));
  EXPECT_THAT(text.str(), testing::HasSubstr("\"queries of image\""));

  std::filesystem::remove(trace);
  std::filesystem::create_directories(trace / "in the way");
  controller.Signal(SIGUSR1);
  EXPECT_TRUE(
      Eventually(kPatienceMs, [&] { return controller.Log().find("cannot write the trace") != std::string::npos; }));
  EXPECT_TRUE(Echoes(client->Infer(ImageQuery(7)), ImageQuery(7)));
  controller.Signal(SIGTERM);
  EXPECT_EQ(controller.WaitExit(30), 0);
}

TEST(Lifecycle, ATraceCanBeAskedForWhileDraining) {
  ControllerProcess::Options options = FakeServices("fcfs", 10'000'000);
  options.server += "drain_timeout_ms = 600000\n";
  constexpr std::string_view kRoundTimeout = "round_timeout_ms = 2000";
  options.config.replace(options.config.find(kRoundTimeout), kRoundTimeout.size(), "round_timeout_ms = 600000");
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  auto accepted = SubmitAccepted(controller, client.get(), 4);
  controller.Signal(SIGTERM);
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.region().header().draining.load() == 1; }));
  controller.Signal(SIGUSR1);
  EXPECT_TRUE(Eventually(
      kPatienceMs, [&] { return std::filesystem::exists(controller.directory() / controller.name() / "trace.json"); }));
  EXPECT_THAT(controller.Log(), testing::Not(testing::HasSubstr("second signal")));
  controller.Signal(SIGTERM);  // this one ends the waiting
  EXPECT_EQ(controller.WaitExit(30), 0) << "not the 40 s that the queries take";
  EXPECT_THAT(controller.Log(), testing::HasSubstr("second signal"));
}

TEST(Lifecycle, TheControllerDoesNotLoadLibTorch) {
  const auto [code, libraries] = RunLine(std::string("ldd ") + ABACUS_BIN_DIR + "/abacus-controller");
  EXPECT_EQ(code, 0);
  EXPECT_THAT(libraries, testing::Not(testing::HasSubstr("torch")));
  EXPECT_THAT(libraries, testing::Not(testing::HasSubstr("cuda")));
}

}  // namespace
}  // namespace abacus::test
