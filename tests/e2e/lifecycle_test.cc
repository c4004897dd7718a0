// Start, drain, stop, and what a controller leaves behind however it ends.
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/process.h"
#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

// Submits image queries 0 .. count - 1 and waits until the controller has accepted them.
std::vector<std::future<Result<InferReply>>> SubmitAccepted(ControllerProcess& controller, Client* client, int count) {
  std::vector<std::future<Result<InferReply>>> replies;
  for (int i = 0; i < count; ++i) replies.push_back(client->Submit(ImageQuery(i)));
  EXPECT_TRUE(
      Eventually(kPatienceMs, [&] { return controller.stats(0).accepted.load() == static_cast<uint64_t>(count); }));
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
  ControllerProcess::Options options = FakeServices("fcfs", 1'500'000, "abandon = false\nbatching = \"off\"\n");
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
  ASSERT_TRUE(controller.StartAgain()) << controller.error();
  EXPECT_TRUE(Echoes(ConnectTo(controller.tcp())->Infer(ImageQuery(1)), ImageQuery(1)));
  controller.Signal(SIGTERM);
  EXPECT_EQ(controller.WaitExit(30), 0);
  EXPECT_NE(access(SegmentPath(controller).c_str(), F_OK), 0);
}

TEST(Lifecycle, WorkersWriteToTheControllersLog) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  EXPECT_THAT(controller.Log(), testing::HasSubstr("image: loaded in")) << "where the reports of sanitizers go, too";
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
  Replace("round_timeout_ms = 2000", "round_timeout_ms = 600000", &options.config);
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

// Names of the libraries that a process has mapped, however it came by them.
std::set<std::string> MappedLibraries(pid_t pid) {
  std::set<std::string> libraries;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t slash = line.rfind('/');
    if (slash != std::string::npos && line.find(".so", slash) != std::string::npos) {
      libraries.insert(line.substr(slash + 1));
    }
  }
  return libraries;
}

// Those that are neither of the C++ runtime, nor of logging, nor ZeroMQ and what it brings, nor of a sanitizer. Every
// other one makes the controller heavier: it starts in milliseconds, and no model, framework or GPU is its business.
std::vector<std::string> Strangers(const std::set<std::string>& libraries) {
  static const std::set<std::string> kKnown = {
      "ld",        "ld-linux-x86",   "ld-linux-aarch64", "libc",        "libm",           "libpthread", "libdl",
      "librt",     "libresolv",      "libgcc_s",         "libstdc++",   "libspdlog",      "libfmt",     "libzmq",
      "libsodium", "libpgm",         "libnorm",          "libprotokit", "libbsd",         "libmd",      "libunwind",
      "liblzma",   "libgssapi_krb5", "libkrb5",          "libk5crypto", "libkrb5support", "libcom_err", "libkeyutils",
      "libcrypto", "libasan",        "liblsan",          "libtsan",     "libubsan"};
  std::vector<std::string> strangers;
  for (const std::string& library : libraries) {
    std::string stem = library.substr(0, library.find(".so"));  // libpgm-5.3.so.0 -> libpgm
    if (const size_t dash = stem.rfind('-'); dash != std::string::npos && dash + 1 < stem.size()) {
      if (stem.find_first_not_of("0123456789.", dash + 1) == std::string::npos) stem.resize(dash);
    }
    if (!kKnown.contains(stem) && !stem.starts_with("libnss_")) strangers.push_back(library);
  }
  return strangers;
}

TEST(Lifecycle, TheControllerLoadsNothingHeavy) {
  ControllerProcess controller(FakeServices());
  ASSERT_EQ(controller.error(), "");
  EXPECT_TRUE(Echoes(ConnectTo(controller.tcp())->Infer(ImageQuery(1)), ImageQuery(1)));
  const std::set<std::string> libraries = MappedLibraries(controller.pid());
  EXPECT_THAT(libraries, testing::Contains(testing::StartsWith("libzmq.so"))) << "it sees what is loaded";
  EXPECT_THAT(Strangers(libraries), testing::IsEmpty());
  EXPECT_THAT(Strangers({"ld-linux-x86-64.so.2", "libc.so.6", "libpgm-5.3.so.0", "libc10.so", "libtorch_cpu.so",
                         "libcuda.so.1", "libcudart-0a1b2c.so.13", "libcudnn.so.9", "libpython3.11.so.1.0"}),
              testing::ElementsAre("libc10.so", "libcuda.so.1", "libcudart-0a1b2c.so.13", "libcudnn.so.9",
                                   "libpython3.11.so.1.0", "libtorch_cpu.so"))
      << "it would find them";
}

}  // namespace
}  // namespace abacus::test
