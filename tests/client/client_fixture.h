// What the tests of the client share: quick options, small queries, waiting with a bound.
#ifndef ABACUS_TESTS_CLIENT_CLIENT_FIXTURE_H_
#define ABACUS_TESTS_CLIENT_CLIENT_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client.h"
#include "tests/client/fake_server.h"

namespace abacus {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

inline constexpr auto kSoon = 10s;  // a bound for waits that must end, never waited for in a passing test

inline ClientOptions QuickOptions() {
  ClientOptions options;
  options.connect_timeout = 10s;
  options.receive_timeout = 10s;
  options.reconnect_interval = 10ms;
  return options;
}
inline std::unique_ptr<Client> ConnectTo(const FakeServer& server, const ClientOptions& options = QuickOptions()) {
  auto client = Client::Connect(server.address(), options);
  EXPECT_TRUE(client) << client.error().message();
  return client ? std::move(*client) : nullptr;
}
inline Tensor Ints(const std::string& name, std::vector<int64_t> values) {
  const auto bytes = std::as_bytes(std::span(values));
  return Tensor::Own(name, DType::kInt64, {static_cast<int64_t>(values.size())}, {bytes.begin(), bytes.end()});
}
inline InferRequest Query(int64_t value) {
  InferRequest request;
  request.model = "m";
  request.inputs = {Ints("x", {value})};
  return request;
}
inline int64_t ValueOf(const Result<InferReply>& reply) {
  if (!reply || !reply->status.ok() || reply->outputs.empty()) return -1;
  return reply->outputs[0].ToVector<int64_t>().at(0);
}
// Waits until a counter reaches a value: replies that nobody waits for can be seen only there.
inline void WaitFor(const Client& client, uint64_t ClientCounters::*counter, uint64_t value) {
  const auto limit = Clock::now() + kSoon;
  while (client.counters().*counter < value && Clock::now() < limit) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(client.counters().*counter, value);
}

}  // namespace abacus

#endif  // ABACUS_TESTS_CLIENT_CLIENT_FIXTURE_H_
