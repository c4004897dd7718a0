// Workers that die, fail, hang or cannot load.
#include <signal.h>

#include <fstream>
#include <regex>

#include "base/clock.h"
#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

TEST(Workers, ADeadOneFailsItsQueryIsReplacedAndTheOthersGoOn) {
  ControllerProcess controller(FakeServices("free", 300'000));  // a pass takes 0.3 s
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  const pid_t victim = controller.worker_pid(0), other = controller.worker_pid(1);
  auto doomed = client->Submit(ImageQuery(1));
  auto safe = client->Submit(TextQuery(1000));
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.stats(0).running.load() == 1; }));
  const uint64_t killed_ns = MonotonicNs();
  kill(victim, SIGKILL);
  const auto failed = doomed.get();
  // `abacus-bench lifecycle` measures how fast; here it only must not be the time limit that noticed.
  EXPECT_LT(MonotonicNs() - killed_ns, 10 * kNsPerSecond);
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(failed->status.message(), testing::HasSubstr("signal 9"));
  EXPECT_TRUE(Echoes(safe.get(), TextQuery(1000)));
  EXPECT_EQ(controller.worker_pid(1), other);
  const InferRequest next = ImageQuery(2);
  EXPECT_TRUE(Echoes(client->Infer(next), next)) << "the first query after the restart";
  EXPECT_NE(controller.worker_pid(0), victim);
  EXPECT_EQ(controller.stats(0).restarts.load(), 1u);
}

// Of a larger model with the outputs under other names.
TEST(Workers, ADescriptionThatChangesUnderARunningControllerChangesNothing) {
  const ControllerProcess::Options options = FakeServices("free");
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  std::string other = options.files.at("image.toml");
  for (int i = 0; i < 2; ++i) Replace("\"batch\", 1000", "\"batch\" , 2000", &other);
  Replace("\"y\"", "\"z\"", &other);
  for (const std::string& content : {other, std::string("nonsense")}) {
    std::ofstream(controller.directory() / "image.toml") << content;  // in place
    const uint32_t generation = controller.slot(0).generation.load();
    kill(controller.worker_pid(0), SIGKILL);
    ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.slot(0).generation.load() > generation; }));
    const InferRequest request = ImageQuery(generation, 2);
    const auto reply = client->Infer(request);
    EXPECT_TRUE(Echoes(reply, request));
    ASSERT_EQ(reply->outputs.size(), 1u);
    EXPECT_EQ(reply->outputs[0].name, "y");
  }
}

TEST(Workers, NobodyMeasuresWhileAnotherOneLoads) {
  ControllerProcess::Options options = FakeServices("free");
  options.files["image.toml"] += "load_us = 1000000\n";
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const std::string log = controller.Log();
  std::smatch waited;
  ASSERT_TRUE(std::regex_search(log, waited, std::regex("text: loaded in .* s on fake \\(([0-9.]+) s of it waiting")))
      << log;
  EXPECT_GT(std::stod(waited[1]), 0.5) << "for image, which loads for a second";
  EXPECT_EQ(LoadText(controller.slot(0).measured_digest).size(), 64u);
  EXPECT_NE(LoadText(controller.slot(0).measured_digest), LoadText(controller.slot(1).measured_digest));
  EXPECT_EQ(LoadText(controller.slot(0).structure).size(), 64u);
}

TEST(Workers, AQueryThatKillsOrFailsTakesNobodyWithIt) {
  ControllerProcess controller(FakeServices("free"));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  const auto failed = client->Infer(TextQuery(667));
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(failed->status.message(), testing::HasSubstr("scripted failure"));
  EXPECT_EQ(controller.stats(1).restarts.load(), 0u) << "an error is no reason to restart";
  const auto killed = client->Infer(TextQuery(666));
  ASSERT_TRUE(killed);
  EXPECT_EQ(killed->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(killed->status.message(), testing::HasSubstr("exited with code 9"));
  EXPECT_TRUE(Echoes(client->Infer(TextQuery(1000)), TextQuery(1000)));
}

TEST(Workers, AHungOneIsEndedAndReplaced) {
  ControllerProcess controller(FakeServices("free"));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  const auto hung = client->Infer(TextQuery(668));
  ASSERT_TRUE(hung);
  EXPECT_EQ(hung->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(hung->status.message(), testing::HasSubstr("round_timeout_ms"));
  EXPECT_TRUE(Echoes(client->Infer(TextQuery(1000)), TextQuery(1000)));
}

TEST(Workers, AStoppedOneCountsAsHung) {
  ControllerProcess controller(FakeServices("free"));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  kill(controller.worker_pid(0), SIGSTOP);
  const auto hung = client->Infer(ImageQuery(1));
  ASSERT_TRUE(hung);
  EXPECT_EQ(hung->status.code(), StatusCode::kWorkerFailed);
  EXPECT_TRUE(Echoes(client->Infer(ImageQuery(2)), ImageQuery(2)));
}

TEST(Workers, OneThatKeepsDyingIsGivenUpForAWhile) {
  ControllerProcess::Options options = FakeServices("free");
  Replace("max_restarts_per_minute = 500", "max_restarts_per_minute = 2", &options.config);
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  for (int i = 0; i < 3; ++i) {
    const auto reply = client->Infer(TextQuery(666));
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->status.code(), StatusCode::kWorkerFailed) << i;
  }
  const auto down = client->Infer(TextQuery(1000));
  ASSERT_TRUE(down);
  EXPECT_EQ(down->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(down->status.message(), testing::HasSubstr("next try in"));
  EXPECT_TRUE(Echoes(client->Infer(ImageQuery(1)), ImageQuery(1))) << "the other service does not notice";
  const auto health = client->Health();
  ASSERT_TRUE(health);
  EXPECT_FALSE(health->ready);
  EXPECT_EQ(health->services[1].state, "failed");
  EXPECT_THAT(health->services[1].message, testing::HasSubstr("within a minute"));
}

}  // namespace
}  // namespace abacus::test
