// What the end-to-end tests share: fake services, queries with recognisable payloads, a bare DEALER for bad messages.
// A controller that ends otherwise than it should, or leaves a sanitizer's report, fails the test that started it.
#ifndef ABACUS_TESTS_E2E_HARNESS_H_
#define ABACUS_TESTS_E2E_HARNESS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "client/client.h"
#include "client/protocol.h"
#include "tests/support/controller_process.h"

namespace abacus::test {

// Sanitizers make everything slower: what only takes long is done less often under them.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// Replaces the first `from` of a text that has one.
inline void Replace(const std::string& from, const std::string& to, std::string* text) {
  ASSERT_NE(text->find(from), std::string::npos) << from;
  text->replace(text->find(from), from.size(), to);
}

// Runs a command line; its exit code and everything it printed.
inline std::pair<int, std::string> RunLine(const std::string& line) {
  FILE* pipe = popen((line + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[512];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), output};
}

// Two fake services. image: float32 [batch, 1000] echoed, batches 1, 2, 4. text: int64 ids [batch, sequence] in
// 0..999999 echoed, batches 1, 2, 4, sequences 8, 16; the ids 666, 667 and 668 kill, fail and hang its worker.
// `sections`: more lines of [worker], and sections after it.
inline ControllerProcess::Options FakeServices(const std::string& policy = "free", double base_us = 0,
                                               const std::string& scheduler = "abandon = false\n",
                                               const std::string& sections = "") {
  ControllerProcess::Options options;
  options.bin_dir = ABACUS_BIN_DIR;
  options.on_complaint = [](const std::string& complaint) { ADD_FAILURE() << complaint; };
  options.server = "arena_mib = 32\n";
  options.config = "[scheduler]\npolicy = \"" + policy + "\"\n" + scheduler +
                   "[worker]\ndevice = \"fake\"\nround_timeout_ms = 2000\nmax_restarts_per_minute = 500\n" + sections +
                   "[[service]]\nname = \"image\"\nmodel = \"image.toml\"\nqueue_limit = 100000\n"
                   "[[service]]\nname = \"text\"\nmodel = \"text.toml\"\nqueue_limit = 100000\n";
  const std::string fake = "[fake]\noperators = 8\nbase_us = " + std::to_string(base_us) + "\n";
  options.files["image.toml"] =
      "name = \"image\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\", 1000]\n"
      "[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\", 1000]\n[buckets]\nbatch = [1, 2, 4]\n" +
      fake;
  options.files["text.toml"] =
      "name = \"text\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"ids\"\ndtype = \"int64\"\n"
      "shape = [\"batch\", \"sequence\"]\nrange = [0, 999999]\n"
      "[[outputs]]\nname = \"out\"\ndtype = \"int64\"\nshape = [\"batch\", \"sequence\"]\n"
      "[buckets]\nbatch = [1, 2, 4]\nsequence = [8, 16]\n" +
      fake + "die_on_value = 666\nfail_on_value = 667\nhang_on_value = 668\n";
  return options;
}

template <class T>
Tensor TensorOf(const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return Tensor::Own(name, dtype, shape, std::move(bytes));
}

// A query to text whose ids all differ from those of other seeds (and from the scripted faults, for seeds >= 1000).
inline InferRequest TextQuery(int64_t seed, int64_t batch = 1, int64_t sequence = 5) {
  std::vector<int64_t> ids(static_cast<size_t>(batch * sequence));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = (seed + static_cast<int64_t>(i) * 7919) % 1'000'000;
  ids[0] = seed;
  InferRequest request;
  request.model = "text";
  request.inputs.push_back(TensorOf("ids", DType::kInt64, {batch, sequence}, ids));
  return request;
}

inline InferRequest ImageQuery(int64_t seed, int64_t batch = 1) {
  std::vector<float> x(static_cast<size_t>(batch) * 1000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(seed) + static_cast<float>(i) * 0.001f;
  InferRequest request;
  request.model = "image";
  request.inputs.push_back(TensorOf("x", DType::kFloat32, {batch, 1000}, x));
  return request;
}

// True when the reply echoes the request's only input, bit for bit.
inline bool Echoes(const Result<InferReply>& reply, const InferRequest& request) {
  if (!reply || !reply->status.ok() || reply->outputs.size() != 1) return false;
  const auto& in = request.inputs[0];
  const auto& out = reply->outputs[0];
  return out.shape == in.shape && out.bytes.size() == in.bytes.size() &&
         std::memcmp(out.bytes.data(), in.bytes.data(), in.bytes.size()) == 0;
}

inline std::unique_ptr<Client> ConnectTo(const std::string& address, int receive_timeout_s = 20) {
  ClientOptions options;
  options.receive_timeout = std::chrono::seconds(receive_timeout_s);
  auto client = Client::Connect(address, options);
  EXPECT_TRUE(client) << client.error().message();
  return client ? std::move(*client) : nullptr;
}

// A bare DEALER that sends what it is told, right or wrong.
class RawClient {
 public:
  explicit RawClient(const std::string& address) : dealer_(context_, zmq::socket_type::dealer) {
    dealer_.set(zmq::sockopt::linger, 0);
    dealer_.set(zmq::sockopt::rcvtimeo, 5000);
    dealer_.connect(address);
  }
  void Send(const std::vector<std::string>& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      dealer_.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  void Send(const protocol::Request& request, const std::vector<std::string>& payloads) {
    std::vector<std::string> frames(1);
    protocol::EncodeRequest(request, &frames[0]);
    frames.insert(frames.end(), payloads.begin(), payloads.end());
    Send(frames);
  }
  // False when the socket cannot take it within 10 ms; nothing was sent then.
  bool TrySend(const protocol::Request& request, const std::string& payload) {
    std::string header;
    protocol::EncodeRequest(request, &header);
    dealer_.set(zmq::sockopt::sndtimeo, 10);
    if (!dealer_.send(zmq::buffer(header), zmq::send_flags::sndmore)) return false;
    dealer_.set(zmq::sockopt::sndtimeo, -1);  // the rest of a started message
    dealer_.send(zmq::buffer(payload), zmq::send_flags::none);
    return true;
  }
  // The next reply's header; its tensors are dropped. nullopt when none comes in time.
  std::optional<protocol::Reply> Receive(int timeout_ms = 5000) {
    dealer_.set(zmq::sockopt::rcvtimeo, timeout_ms);
    zmq::message_t header, frame;
    if (!dealer_.recv(header)) return std::nullopt;
    bool more = header.more();
    while (more && dealer_.recv(frame)) more = frame.more();
    protocol::Reply reply;
    const std::span bytes(static_cast<const std::byte*>(header.data()), header.size());
    EXPECT_TRUE(protocol::DecodeReply(bytes, &reply));
    return reply;
  }
  zmq::socket_t& socket() { return dealer_; }

 private:
  zmq::context_t context_{1};
  zmq::socket_t dealer_;
};

inline protocol::Request ImageHeader(uint64_t id, int64_t batch = 1) {
  protocol::Request request;
  request.id = id;
  request.model = "image";
  request.inputs.push_back({"x", DType::kFloat32, {batch, 1000}});
  return request;
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_E2E_HARNESS_H_
