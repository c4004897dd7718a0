// FakeServer: the server's side of the protocol in the test's own process, answering as the test says.
//
// Health and models requests are answered as set. Infer requests go to the handler, which answers now, later,
// twice or never through Reply and SendRaw; cancellations go to one of their own, which at first does nothing.
//
// Thread rule: the handler runs on the server's thread; Reply and SendRaw may be called from any thread.
#ifndef ABACUS_TESTS_CLIENT_FAKE_SERVER_H_
#define ABACUS_TESTS_CLIENT_FAKE_SERVER_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "client/protocol.h"

namespace abacus {

class FakeServer {
 public:
  struct Incoming {
    std::string client;  // routing id
    protocol::Request header;
    std::vector<std::string> frames;
  };
  using Handler = std::function<void(FakeServer&, const Incoming&)>;

  // Answers OK with the inputs as outputs.
  static void Echo(FakeServer& server, const Incoming& query);
  // Does nothing.
  static void Ignore(FakeServer&, const Incoming&) {}

  explicit FakeServer(Handler handler = Echo, const std::string& endpoint = "tcp://127.0.0.1:*");
  ~FakeServer();
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  const std::string& address() const { return address_; }
  // Blocks until `count` infer requests have arrived in all.
  void WaitForQueries(size_t count);
  // The infer requests so far.
  std::vector<Incoming> queries() const;

  // The same for cancellations.
  void WaitForCancels(size_t count);
  std::vector<uint64_t> cancels() const;
  void OnCancel(Handler handler);

  void Reply(const Incoming& query, protocol::Reply reply, std::vector<std::string> frames = {});
  void SendRaw(const std::string& client, std::vector<std::string> frames);

  // What models and health requests are answered with: no models and ready, unless set.
  void SetModels(std::vector<protocol::ModelDescription> models);
  void SetReady(bool ready) { ready_ = ready; }
  // What health replies say about the lease socket; empty: nothing.
  void SetLease(std::string path);
  // What health replies say about sizes; 0: nothing.
  void SetLimits(uint64_t max_frame_bytes, uint64_t max_message_bytes) {
    max_frame_bytes_ = max_frame_bytes;
    max_message_bytes_ = max_message_bytes;
  }

 private:
  void Run();
  void Handle(Incoming incoming, const std::string& header);

  const Handler handler_;
  Handler on_cancel_ = Ignore;  // guarded by mutex_
  zmq::context_t context_;
  zmq::socket_t socket_{context_, zmq::socket_type::router};  // the server's thread
  std::string address_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ready_{true};
  std::atomic<uint64_t> max_frame_bytes_{0};
  std::atomic<uint64_t> max_message_bytes_{0};
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<protocol::ModelDescription> models_;  // guarded by mutex_
  std::string lease_;                               // guarded by mutex_
  std::vector<Incoming> queries_;                   // guarded by mutex_
  std::vector<uint64_t> cancels_;                   // guarded by mutex_
  std::vector<std::vector<std::string>> to_send_;   // guarded by mutex_
  std::thread thread_;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CLIENT_FAKE_SERVER_H_
