// A soak: queries of all sizes, also such that run in parts, from several clients, while workers are killed, queries
// are cancelled and clients vanish. Each query gets one reply; one that is OK has its own rows back, bit for bit.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <ostream>
#include <random>
#include <thread>

#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

constexpr int64_t kWidth = 40;  // of a row of "image"
constexpr int64_t kMostRows = 50;
constexpr int64_t kFirstSeed = 1000;

struct SoakResult {
  int ok = 0;
  int wrong = 0;     // OK, but with another payload
  int uncalled = 0;  // CANCELLED, but nobody had asked for that
  int missing = 0;   // no reply at all
  int in_parts = 0;  // OK, and larger than the largest bucket
  std::map<StatusCode, int> errors;
  uint64_t duplicates = 0, malformed = 0;
  std::string first_error;
};

std::ostream& operator<<(std::ostream& out, const SoakResult& result) {
  out << result.ok << " OK (" << result.in_parts << " in parts), " << result.wrong << " wrong, " << result.missing
      << " missing, " << result.duplicates << " duplicates, " << result.malformed << " malformed";
  for (const auto& [code, count] : result.errors) out << ", " << count << " " << StatusCodeName(code);
  return out << "; the first error: " << result.first_error;
}

// As FakeServices, with rows of their own width and no scripted faults. Jobs have up to 8 rows.
ControllerProcess::Options SoakServices(const std::string& policy) {
  ControllerProcess::Options options = FakeServices(policy, 0, "abandon = true\n");
  const std::string fake = "[fake]\noperators = 8\nbase_us = 150\nper_row_us = 10\n";
  options.files["image.toml"] =
      "name = \"image\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\", 40]\n"
      "[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\", 40]\n[buckets]\nbatch = [1, 2, 4, 8]\n" +
      fake;
  options.files["text.toml"] =
      "name = \"text\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"ids\"\ndtype = \"int64\"\n"
      "shape = [\"batch\", \"sequence\"]\nrange = [0, 999999]\n"
      "[[outputs]]\nname = \"out\"\ndtype = \"int64\"\nshape = [\"batch\", \"sequence\"]\n"
      "[buckets]\nbatch = [1, 4, 8]\nsequence = [8, 16]\n" +
      fake;
  return options;
}

// Of either service. No two rows of the soak are the same.
InferRequest AnyRows(std::mt19937& random, int64_t seed) {
  const auto up_to = [&](unsigned most) { return static_cast<int64_t>(1 + random() % most); };
  const int64_t rows = random() % 10 == 0 ? up_to(kMostRows) : up_to(4);
  if (random() % 2 == 0) return TextQuery(seed, rows, up_to(16));
  std::vector<float> x(static_cast<size_t>(rows * kWidth));
  for (int64_t i = 0; i < rows * kWidth; ++i) {
    const int64_t row = (seed - kFirstSeed) * kMostRows + i / kWidth;  // exact as a float
    x[static_cast<size_t>(i)] = static_cast<float>(i % 2 == 0 ? row : i % kWidth);
  }
  InferRequest request;
  request.model = "image";
  request.inputs.push_back(TensorOf("x", DType::kFloat32, {rows, kWidth}, x));
  return request;
}

class Soak {
 public:
  Soak(ControllerProcess* controller, int queries) : controller_(*controller), queries_(queries) {}

  SoakResult Run() {
    std::jthread killer([this](const std::stop_token& stop) { Kill(stop); });
    std::jthread vanisher([this](const std::stop_token& stop) { Vanish(stop); });
    std::vector<std::jthread> clients;
    for (int c = 0; c < kClients; ++c) clients.emplace_back([this, c] { RunClient(c); });
    clients.clear();
    return result_;
  }
  int kills() const { return kills_; }

 private:
  static constexpr int kClients = 4;
  static constexpr int kWindow = 60;  // queries of a client that wait for their replies

  struct Sent {
    InferRequest request;
    std::atomic<bool> cancelled{false};
  };

  void Kill(const std::stop_token& stop) {
    std::mt19937 random(1);
    while (!stop.stop_requested()) {
      const size_t service = random() % 2;
      if (controller_.WaitState(service, WorkerState::kServing, 10)) {
        const pid_t pid = controller_.worker_pid(service);
        if (pid > 0) kill(pid, SIGKILL);
        ++kills_;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(200 + random() % 400));
    }
  }
  // Clients that send some queries, the last one in parts, and are gone.
  void Vanish(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      RawClient raw(controller_.tcp());
      for (uint64_t id = 1; id <= 4; ++id) {
        const int64_t rows = id < 4 ? 1 : 20;
        protocol::Request request;
        request.id = id;
        request.model = "image";
        request.inputs.push_back({"x", DType::kFloat32, {rows, kWidth}});
        raw.Send(request, {std::string(static_cast<size_t>(rows * kWidth) * 4, 'x')});
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(25));
    }
  }
  void RunClient(int c) {
    const auto client = ConnectTo(c % 2 == 0 ? controller_.tcp() : controller_.ipc(), 120);
    if (client == nullptr) return;
    std::mt19937 random(static_cast<unsigned>(c) + 10);
    std::condition_variable room;
    int outstanding = 0;
    std::vector<std::pair<uint64_t, std::shared_ptr<Sent>>> latest;  // ids
    const int share = queries_ / kClients;
    for (int i = 0; i < share; ++i) {
      auto sent = std::make_shared<Sent>();
      sent->request = AnyRows(random, kFirstSeed + c * share + i);
      const uint64_t targets_us[] = {0, 20'000, 1'000'000, 20'000'000};
      sent->request.qos_us = targets_us[random() % 4];
      {
        std::unique_lock lock(mutex_);
        room.wait(lock, [&] { return outstanding < kWindow; });
        ++outstanding;
      }
      const uint64_t id = client->SubmitAsync(sent->request, [&, sent](const Result<InferReply>& reply) {
        const bool echoes = Echoes(reply, sent->request);
        const std::lock_guard lock(mutex_);
        Count(*sent, reply, echoes);
        --outstanding;
        room.notify_one();
      });
      latest.emplace_back(id, sent);
      if (latest.size() > 20) latest.erase(latest.begin());
      if (random() % 12 != 0) continue;
      const auto& [other_id, other] = latest[random() % latest.size()];
      other->cancelled = true;
      client->Cancel(other_id);
    }
    std::unique_lock lock(mutex_);
    room.wait(lock, [&] { return outstanding == 0; });
    result_.duplicates += client->counters().duplicates;
    result_.malformed += client->counters().malformed;
  }
  void Count(const Sent& sent, const Result<InferReply>& reply, bool echoes) {
    if (!reply) {
      ++result_.missing;
      if (result_.first_error.empty()) result_.first_error = reply.error().ToString();
    } else if (!reply->status.ok()) {
      ++result_.errors[reply->status.code()];
      result_.uncalled += reply->status.code() == StatusCode::kCancelled && !sent.cancelled ? 1 : 0;
      if (reply->status.code() == StatusCode::kInvalidArgument) result_.first_error = reply->status.ToString();
    } else {
      ++(echoes ? result_.ok : result_.wrong);
      result_.in_parts += sent.request.inputs[0].shape[0] > 8 ? 1 : 0;
    }
  }

  ControllerProcess& controller_;
  const int queries_;
  std::atomic<int> kills_{0};
  std::mutex mutex_;  // protects result_ and, by client, outstanding
  SoakResult result_;
};

void RunSoak(const std::string& policy, int queries) {
  ControllerProcess controller(SoakServices(policy));
  ASSERT_EQ(controller.error(), "");
  Soak soak(&controller, queries);
  const SoakResult result = soak.Run();

  int replies = result.ok + result.wrong;
  for (const auto& [code, count] : result.errors) replies += count;
  EXPECT_EQ(replies, queries) << result;
  EXPECT_EQ(result.missing, 0) << result;
  EXPECT_EQ(result.wrong, 0) << result;
  EXPECT_EQ(result.uncalled, 0) << result;
  EXPECT_EQ(result.duplicates, 0u) << result;
  EXPECT_EQ(result.malformed, 0u) << result;
  for (const auto& [code, count] : result.errors) {
    EXPECT_THAT(code, testing::AnyOf(StatusCode::kCancelled, StatusCode::kWorkerFailed, StatusCode::kDeadlineExceeded,
                                     StatusCode::kDeadlineUnreachable))
        << result;
  }
  EXPECT_GT(soak.kills(), 0);
  EXPECT_GT(result.ok, queries / 4) << "else it shows little: " << result;
  EXPECT_GT(result.in_parts, queries / 100) << result;

  EXPECT_TRUE(Eventually(kPatienceMs, [&] {
    uint64_t accepted = 0, replied = 0;  // also those of clients that vanished
    for (size_t i = 0; i < 2; ++i) {
      accepted += controller.stats(i).accepted.load();
      for (const auto& count : controller.stats(i).replies) replied += count.load();
    }
    return accepted == replied && controller.region().header().arena_used_bytes.load() == 0;
  })) << "a query that was accepted has no answer, or its block is still in use";
  const ServiceStats& stats = controller.stats(0);
  EXPECT_LT(stats.jobs.load(), stats.job_queries.load()) << "jobs of several queries";
  EXPECT_LE(stats.job_rows.load() + stats.padding_rows.load(), 8 * stats.jobs.load());
}

TEST(Soak, AHundredThousandQueriesGetOneRightReplyEach) { RunSoak("abacus", kSanitized ? 8'000 : 100'000); }
TEST(Soak, SoDoTheyWithoutRounds) { RunSoak("free", kSanitized ? 4'000 : 20'000); }

}  // namespace
}  // namespace abacus::test
