// Channel: the socket under a Client. Matches replies to queries by id, and gives every query exactly one answer.
//
// Thread rule: Send and counters may be called from any thread. The background thread owns the socket and everything
// under "I/O thread"; the queue of submitted queries is the only thing that both sides touch, under mutex_.
#ifndef ABACUS_CLIENT_CHANNEL_H_
#define ABACUS_CLIENT_CHANNEL_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "base/status.h"
#include "client/client.h"
#include "client/protocol.h"
#include "client/tensor.h"

namespace abacus {

// A reply with its frames.
struct Answer {
  protocol::Reply header;
  std::vector<Tensor> outputs;
};

class Channel {
 public:
  using Done = std::function<void(Result<Answer>)>;

  // Connects in the background; an error only where `address` is no endpoint.
  static Result<std::unique_ptr<Channel>> Open(const std::string& address, const ClientOptions& options);
  // Answers what is outstanding with UNAVAILABLE.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Sends `request` (its id and inputs are filled in here) with one frame per tensor. `done` is called exactly once, by
  // the background thread or, where the request is refused, by this call.
  void Send(protocol::Request request, std::vector<Tensor> tensors, std::chrono::milliseconds timeout, Done done);

  // Whether this process is not the one that opened the channel. Then Send fails, and the channel must be leaked.
  bool forked() const;
  bool OnIoThread() const { return std::this_thread::get_id() == thread_.get_id(); }
  ClientCounters counters() const;

 private:
  using Clock = std::chrono::steady_clock;

  struct Query {
    uint64_t id = 0;
    std::string what;    // for messages: "query to model 'resnet50'"
    std::string header;  // encoded; empty once sent
    std::vector<Tensor> tensors;
    std::chrono::milliseconds timeout{};
    Clock::time_point deadline;
    Done done;
  };

  Channel(std::string address, const ClientOptions& options);

  // What keeps the request from being sent, or an empty string.
  std::string WhyNotSent(const std::string& header, const std::vector<Tensor>& tensors) const;

  // I/O thread.
  void Run();
  int PollTimeoutMs() const;
  void TakeSubmitted();
  void SendWaiting();
  bool TrySend(Query& query);
  void ReceiveReplies();
  void HandleReply(std::vector<zmq::message_t> frames);
  void ExpireQueries();
  void FailAll();
  void Finish(uint64_t id, Result<Answer> answer);

  // Constant after construction.
  const std::string address_;
  const ClientOptions options_;
  const pid_t pid_;
  const int wake_fd_;  // eventfd: submitted_ is not empty, or stopping_

  // What the server takes, from its last reply that said so; 0: unknown.
  std::atomic<uint64_t> max_frame_bytes_{0};
  std::atomic<uint64_t> max_message_bytes_{0};

  std::atomic<uint64_t> next_id_{1};
  std::atomic<size_t> outstanding_{0};
  std::atomic<bool> stopping_{false};
  struct {
    std::atomic<uint64_t> sent{0}, replies{0}, timeouts{0}, late{0}, duplicates{0}, malformed{0};
  } counts_;

  std::mutex mutex_;
  std::vector<Query> submitted_;  // guarded by mutex_

  // I/O thread.
  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
  std::unordered_map<uint64_t, Query> queries_;  // without answer, sent or not
  std::deque<uint64_t> waiting_;  // to be sent, oldest first; ids that are no longer in queries_ are skipped
  using Deadline = std::pair<Clock::time_point, uint64_t>;
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;  // answered queries stay until due
  std::set<uint64_t> timed_out_;  // tells late replies from duplicates; the oldest are forgotten

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace abacus

#endif  // ABACUS_CLIENT_CHANNEL_H_
