// Queries that are larger than a job, queries that are cancelled, and what status says about jobs.
#include <atomic>
#include <future>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

TEST(Jobs, AQueryAboveTheLargestBucketIsAnsweredAsOne) {
  for (const char* policy : {"abacus", "free"}) {
    ControllerProcess controller(FakeServices(policy));
    ASSERT_EQ(controller.error(), "");
    const auto client = ConnectTo(controller.tcp());
    for (const int64_t rows : {5, 8, 37, 256}) {
      const InferRequest image = ImageQuery(rows, rows), text = TextQuery(1000 + rows, rows, 9);
      EXPECT_TRUE(Echoes(client->Infer(image), image)) << policy << ", " << rows << " rows";
      EXPECT_TRUE(Echoes(client->Infer(text), text)) << policy << ", " << rows << " rows";
    }
    EXPECT_EQ(controller.stats(0).replies[0].load(), 4u);
    EXPECT_EQ(controller.stats(0).jobs.load(), 2u + 2u + 10u + 64u);
  }
}

TEST(Jobs, StatusShowsRowsQueriesAndPadding) {
  ControllerProcess controller(FakeServices("edf"));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  ASSERT_TRUE(client->Infer(ImageQuery(1, 3)));  // in a bucket of 4
  ASSERT_TRUE(client->Infer(ImageQuery(2, 4)));
  const std::string status = std::string(ABACUS_BIN_DIR) + "/abacus-status --name " + controller.name();
  const auto [code, text] = RunLine(status + " --json");
  ASSERT_EQ(code, 0) << text;
  const nlohmann::json service = nlohmann::json::parse(text)["services"][0];
  EXPECT_EQ(service["jobs"], 2);
  EXPECT_DOUBLE_EQ(service["rows_per_job"], 3.5);
  EXPECT_DOUBLE_EQ(service["queries_per_job"], 1);
  EXPECT_DOUBLE_EQ(service["padding"], 1.0 / 8);
  const std::string table = RunLine(status).second;
  EXPECT_THAT(table, testing::HasSubstr("ROWS/JOB QUERIES/JOB PADDING %"));
  EXPECT_THAT(table, testing::ContainsRegex(" 3\\.50 +1\\.00 +12\\.5"));
}

TEST(Jobs, ACancelledQueryThatWaitsIsAnsweredBeforeTheOneThatRuns) {
  ControllerProcess controller(FakeServices("edf", 500'000));  // a pass takes half a second
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  const InferRequest request = ImageQuery(1, 4);
  std::promise<Result<InferReply>> ran, waited;
  std::atomic<uint64_t> ran_ns{0}, waited_ns{0};
  client->SubmitAsync(request, [&](Result<InferReply> reply) {
    ran_ns = MonotonicNs();
    ran.set_value(std::move(reply));
  });
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.stats(0).running.load() == 1; }));
  const uint64_t id = client->SubmitAsync(ImageQuery(2, 4), [&](Result<InferReply> reply) {
    waited_ns = MonotonicNs();
    waited.set_value(std::move(reply));
  });
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.stats(0).accepted.load() == 2; }));
  client->Cancel(id);
  const auto cancelled = waited.get_future().get();
  ASSERT_TRUE(cancelled);
  EXPECT_EQ(cancelled->status.code(), StatusCode::kCancelled);
  EXPECT_TRUE(Echoes(ran.get_future().get(), request));
  EXPECT_LT(waited_ns.load(), ran_ns.load());
  EXPECT_EQ(controller.stats(0).replies[static_cast<size_t>(StatusCode::kCancelled)].load(), 1u);
}

}  // namespace
}  // namespace abacus::test
