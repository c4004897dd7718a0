// The default policy with a trained predictor, which lets ranges of several services run together, on real processes
// that are killed and stopped while they do.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "models/model_spec.h"
#include "predictor/predictor_file.h"
#include "tests/e2e/flood.h"
#include "tests/e2e/harness.h"
#include "tests/predictor/small_predictor.h"

namespace abacus::test {
namespace {

constexpr double kPassUs = 60;

// A predictor for the fake services as their workers describe themselves (worker/runtime/fake_runtime.h). Its network
// is a constant: whatever runs together takes 0.55 of what it would take one after another. Overlap pays in its eyes
// even after the largest correction by what rounds really take (CorrectedModel::kHighest).
std::string FakePredictor(const ControllerProcess::Options& options) {
  constexpr double kRoundUs = 5, kTogether = 0.55;
  ProfileData subject;
  subject.device = subject.libraries = "fake";
  subject.driver = "none";
  for (const std::string file : {"image.toml", "text.toml"}) {
    const ModelSpec spec = ParseModelSpec(options.files.at(file), "/" + file).value();
    ModelProfile model{spec.name, {}};
    for (size_t b = 0; b < spec.bucket_count(); ++b) {
      const Bucket bucket = spec.bucket(b);
      const uint32_t operators = spec.fake.operators;
      model.buckets.push_back(
          {bucket.batch, bucket.sequence, operators, {0, operators}, {kRoundUs, kRoundUs + spec.fake.base_us}});
    }
    subject.models.push_back(std::move(model));
  }
  PredictorFile predictor = PredictorOf(std::move(subject), {{0, 1}});
  for (MlpLayer& layer : predictor.layers) {
    std::fill(layer.weights.begin(), layer.weights.end(), 0.0f);
    std::fill(layer.bias.begin(), layer.bias.end(), 0.0f);
  }
  predictor.layers.back().bias = {static_cast<float>(std::log(kTogether))};
  return EncodePredictor(predictor);
}

ControllerProcess::Options OverlappingServices() {
  ControllerProcess::Options options =
      FakeServices("abacus", kPassUs, "predictor = \"fake.predictor\"\n", "load_timeout_s = 20\n");
  Replace("round_timeout_ms = 2000", "round_timeout_ms = 500", &options.config);
  options.files["fake.predictor"] = FakePredictor(options);
  return options;
}

nlohmann::json PredictorStatus(const ControllerProcess& controller) {
  const auto [code, text] = RunLine(std::string(ABACUS_BIN_DIR) + "/abacus-status --json --name " + controller.name());
  EXPECT_EQ(code, 0) << text;
  return nlohmann::json::parse(text)["predictor"];
}

// Kills or stops a serving worker, now and then.
class Troublemaker {
 public:
  explicit Troublemaker(ControllerProcess* controller)
      : thread_([this, controller](const std::stop_token& stop) {
          std::mt19937 random(7);
          for (int i = 0; !stop.stop_requested(); ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(100 + random() % 300));
            const size_t service = random() % 2;
            const pid_t victim = controller->worker_pid(service);
            // One that is stopped while it loads would only be missed after load_timeout_s.
            const auto state = static_cast<WorkerState>(controller->slot(service).state.load());
            if (victim <= 0 || state != WorkerState::kServing) continue;
            if (i % 5 == 1) {
              stops_ += kill(victim, SIGSTOP) == 0;
            } else {
              kills_ += kill(victim, SIGKILL) == 0;
            }
          }
        }) {}
  int kills() const { return kills_; }
  int stops() const { return stops_; }

 private:
  std::atomic<int> kills_{0}, stops_{0};
  std::jthread thread_;  // last: ends before what it uses
};

TEST(Overlap, FormsRoundsOfSeveralRanges) {
  ControllerProcess controller(OverlappingServices());
  ASSERT_EQ(controller.error(), "");
  const FloodResult result =
      Flood(controller, {.queries = 2'000, .clients = 2, .window = 50, .qos_us = 10'000'000}, AnyQuery);
  EXPECT_EQ(result.ok, 2'000) << result;
  ExpectExactlyOnce(controller, result);
  const nlohmann::json predictor = PredictorStatus(controller);
  EXPECT_EQ(predictor["trained"], true) << predictor;
  EXPECT_THAT(predictor["description"].get<std::string>(), testing::Not(testing::HasSubstr("additive")));
  EXPECT_EQ(predictor["rounds_untrained"], 0) << predictor;
  EXPECT_GT(predictor["rounds_several"], 100) << predictor;
}

// Every query gets exactly one terminal reply, either its own payload or an error that says what became of it.
TEST(Overlap, EveryQueryIsAnsweredOnceWhileWorkersDieAndStandStill) {
  constexpr int kQueries = kSanitized ? 8'000 : 80'000;
  ControllerProcess controller(OverlappingServices());
  ASSERT_EQ(controller.error(), "");
  FloodResult result;
  {
    const Troublemaker troublemaker(&controller);
    result = Flood(controller, {.queries = kQueries, .clients = 4, .window = 50, .qos_us = 2'000'000}, AnyQuery);
    EXPECT_GT(troublemaker.kills(), 0);
    EXPECT_GT(troublemaker.stops(), 0);
  }
  ExpectExactlyOnce(controller, result);
  int answered = result.ok;
  for (const auto& [code, count] : result.errors) {
    EXPECT_TRUE(code == StatusCode::kWorkerFailed || code == StatusCode::kDeadlineUnreachable ||
                code == StatusCode::kDeadlineExceeded)
        << StatusCodeName(code);
    answered += count;
  }
  EXPECT_EQ(answered, kQueries) << result;
  EXPECT_GT(result.ok, kQueries / 2) << result;
  EXPECT_GT(result.errors[StatusCode::kWorkerFailed], 0) << "no trouble met a running query: the test tested nothing";
  EXPECT_THAT(controller.Log(), testing::HasSubstr("round_timeout_ms")) << "no stopped worker was missed";
  EXPECT_GT(PredictorStatus(controller)["rounds_several"], 0);

  // Both services come back; the last one that was stopped may have to be missed first.
  const auto client = ConnectTo(controller.tcp());
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return Echoes(client->Infer(ImageQuery(1)), ImageQuery(1)); }));
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return Echoes(client->Infer(TextQuery(1000)), TextQuery(1000)); }));
}

}  // namespace
}  // namespace abacus::test
