// Two GPUs, played by fake workers: a lane each, which have nothing to do with each other.
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

// image on the first GPU, text on the second.
ControllerProcess::Options TwoGpus(double base_us) {
  ControllerProcess::Options options =
      FakeServices("fcfs", base_us, "abandon = false\n", "gpu = [0, \"GPU-second\"]\n");
  Replace("model = \"text.toml\"\n", "model = \"text.toml\"\ngpu = \"GPU-second\"\n", &options.config);
  return options;
}

// Sends a query to each service at once; how long the one that waited longer had waited when it began.
uint64_t LongestWaitUs(ControllerProcess& controller) {
  const auto client = ConnectTo(controller.tcp());
  auto image = client->Submit(ImageQuery(1)), text = client->Submit(TextQuery(1000));
  const Result<InferReply> first = image.get(), second = text.get();
  EXPECT_TRUE(Echoes(first, ImageQuery(1)));
  EXPECT_TRUE(Echoes(second, TextQuery(1000)));
  return first && second ? std::max(first->timing.queued_us, second->timing.queued_us) : 0;
}

constexpr uint64_t kPassUs = 1'000'000;

TEST(Lanes, ServeAtOnce) {
  ControllerProcess controller(TwoGpus(kPassUs));
  ASSERT_EQ(controller.error(), "");
  EXPECT_EQ(controller.region().lane_count(), 2u);
  EXPECT_EQ(controller.slot(0).lane, 0u);
  EXPECT_EQ(controller.slot(1).lane, 1u);
  EXPECT_LT(LongestWaitUs(controller), kPassUs / 2);
}

TEST(Lanes, OnOneGpuTheSameServicesTakeTurns) {
  ControllerProcess controller(FakeServices("fcfs", kPassUs));
  ASSERT_EQ(controller.error(), "");
  EXPECT_GT(LongestWaitUs(controller), kPassUs / 2);
}

TEST(Lanes, OneThatStandsStillDoesNotHoldUpTheOther) {
  ControllerProcess::Options options = TwoGpus(0);
  Replace("round_timeout_ms = 2000", "round_timeout_ms = 600000", &options.config);
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp(), 120);
  const pid_t stopped = controller.worker_pid(0);
  kill(stopped, SIGSTOP);
  auto held = client->Submit(ImageQuery(1));
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.stats(0).running.load() == 1; }));
  for (int i = 0; i < 50; ++i) {
    const InferRequest request = TextQuery(1000 + i);
    ASSERT_TRUE(Echoes(client->Infer(request), request)) << i;
  }
  EXPECT_EQ(controller.stats(0).running.load(), 1u) << "still";
  kill(stopped, SIGCONT);
  EXPECT_TRUE(Echoes(held.get(), ImageQuery(1)));
}

TEST(Lanes, AreShownApart) {
  ControllerProcess controller(TwoGpus(0));
  ASSERT_EQ(controller.error(), "");
  const auto [code, text] = RunLine(std::string(ABACUS_BIN_DIR) + "/abacus-status --json --name " + controller.name());
  ASSERT_EQ(code, 0) << text;
  const nlohmann::json status = nlohmann::json::parse(text);
  ASSERT_EQ(status["lanes"].size(), 2u);
  EXPECT_EQ(status["lanes"][0]["gpu"], "0");
  EXPECT_EQ(status["lanes"][1]["gpu"], "GPU-second");
  EXPECT_EQ(status["services"][0]["lane"], 0);
  EXPECT_EQ(status["services"][1]["lane"], 1);
}

}  // namespace
}  // namespace abacus::test
