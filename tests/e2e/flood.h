// A flood of queries from several clients at once, and what became of each of them.
#ifndef ABACUS_TESTS_E2E_FLOOD_H_
#define ABACUS_TESTS_E2E_FLOOD_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <ostream>
#include <random>
#include <thread>
#include <vector>

#include "tests/e2e/harness.h"

namespace abacus::test {

struct FloodOptions {
  int queries = 0;  // of all clients
  int clients = 4;  // every other one through the local socket
  int window = 50;  // queries of a client that wait for their replies
  uint64_t qos_us = 0;
};

struct FloodResult {
  int queries = 0;
  int ok = 0;     // and the payload is the query's own
  int wrong = 0;  // OK, but with another payload
  std::map<StatusCode, int> errors;
  int missing = 0;  // no reply at all
  uint64_t duplicates = 0;
  uint64_t malformed = 0;
};

inline std::ostream& operator<<(std::ostream& out, const FloodResult& result) {
  out << result.queries << " queries: " << result.ok << " OK, " << result.wrong << " wrong, " << result.missing
      << " missing, " << result.duplicates << " duplicates, " << result.malformed << " malformed";
  for (const auto& [code, count] : result.errors) out << ", " << count << " " << StatusCodeName(code);
  return out;
}

// A query of either service, of any of its shapes.
inline InferRequest AnyQuery(std::mt19937& random, int64_t seed) {
  const auto up_to = [&](unsigned most) { return static_cast<int64_t>(1 + random() % most); };
  if (random() % 2 == 0) return ImageQuery(seed, up_to(4));
  const int64_t batch = up_to(4);
  return TextQuery(seed, batch, up_to(16));
}

// `make(random, seed)` makes a query; seeds start at 1000 and are each used once.
template <class Make>
FloodResult Flood(ControllerProcess& controller, const FloodOptions& options, const Make& make) {
  FloodResult result;
  result.queries = options.queries;
  std::mutex mutex;  // protects result and, by client, outstanding
  const auto one_client = [&](int c) {
    const auto client = ConnectTo(c % 2 == 0 ? controller.tcp() : controller.ipc(), 60);
    if (client == nullptr) return;
    std::mt19937 random(static_cast<unsigned>(c));
    std::condition_variable room;
    int outstanding = 0;
    const int share = options.queries / options.clients;
    for (int i = 0; i < share; ++i) {
      auto request = std::make_shared<InferRequest>(make(random, int64_t{1000} + c * share + i));
      request->qos_us = options.qos_us;
      {
        std::unique_lock lock(mutex);
        room.wait(lock, [&] { return outstanding < options.window; });
        ++outstanding;
      }
      client->SubmitAsync(*request, [&, request](Result<InferReply> reply) {
        const bool echoes = Echoes(reply, *request);
        const std::lock_guard lock(mutex);
        if (!reply) {
          ++result.missing;
        } else if (!reply->status.ok()) {
          ++result.errors[reply->status.code()];
        } else {
          ++(echoes ? result.ok : result.wrong);
        }
        --outstanding;
        room.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    room.wait(lock, [&] { return outstanding == 0; });
    const ClientCounters counters = client->counters();
    result.duplicates += counters.duplicates;
    result.malformed += counters.malformed;
  };
  std::vector<std::thread> clients;
  for (int c = 0; c < options.clients; ++c) clients.emplace_back(one_client, c);
  for (std::thread& client : clients) client.join();
  return result;
}

// Every query of the flood, the only one so far, was accepted and answered exactly once, and holds nothing any more.
inline void ExpectExactlyOnce(ControllerProcess& controller, const FloodResult& result) {
  EXPECT_EQ(result.missing, 0) << result;
  EXPECT_EQ(result.wrong, 0) << result;
  EXPECT_EQ(result.duplicates, 0u) << result;
  EXPECT_EQ(result.malformed, 0u) << result;
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return controller.region().header().arena_used_bytes.load() == 0; }))
      << "arena blocks leaked";
  uint64_t accepted = 0, replied = 0;
  for (size_t i = 0; i < controller.region().service_count(); ++i) {
    const ServiceStats& stats = controller.stats(i);
    accepted += stats.accepted.load();
    for (const auto& count : stats.replies) replied += count.load();
  }
  EXPECT_EQ(accepted, static_cast<uint64_t>(result.queries));
  EXPECT_EQ(replied, static_cast<uint64_t>(result.queries));
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_E2E_FLOOD_H_
