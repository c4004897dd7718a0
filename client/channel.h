// Channel: the socket under a Client. Matches replies to queries by id, and gives every query exactly one answer.
//
// Thread rule: Send, Cancel and counters may be called from any thread. The background thread owns the socket and
// everything under "I/O thread"; what was submitted is the only thing that both sides touch, under mutex_.
#ifndef ABACUS_CLIENT_CHANNEL_H_
#define ABACUS_CLIENT_CHANNEL_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "base/status.h"
#include "client/client.h"
#include "client/leased_region.h"
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

  // Sends `request` (its id, inputs and place for outputs are filled in here) with one frame for each tensor that does
  // not lie in a region of ours. `done` is called exactly once, by the background thread or, where the request is
  // refused, by this call. Returns the query's id; 0: refused.
  uint64_t Send(protocol::Request request, std::vector<Tensor> tensors, LeasedBlock outputs,
                std::chrono::milliseconds timeout, Done done);
  // Takes inference queries back: the one of this id where it has no reply yet, or all that have none.
  void Cancel(uint64_t id);
  void CancelAll() { Cancel(kAllQueries); }

  // Whether this process is not the one that opened the channel. Then Send fails, and the channel must be leaked.
  bool forked() const;
  bool OnIoThread() const { return std::this_thread::get_id() == thread_.get_id(); }
  ClientCounters counters() const;
  // Tells the channels of this process apart; never 0.
  uint64_t number() const { return number_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr uint64_t kAllQueries = 0;  // no query has this id

  struct Query {
    uint64_t id = 0;
    std::string what;                 // for messages: "query to model 'resnet50'"
    std::string header;               // encoded; empty once sent
    std::vector<Tensor> tensors;      // those with frames; empty once sent
    std::vector<LeasedBlock> leased;  // where the others lie; their regions live until the reply
    LeasedBlock outputs;
    bool inference = false;
    bool cancelled = false;
    std::chrono::milliseconds timeout{};
    Clock::time_point deadline;
    Done done;
  };

  // Where the outputs of a query that nobody waits for may still arrive.
  struct LateBlock {
    std::weak_ptr<LeasedRegion> region;
    uint64_t offset = 0;
  };

  Channel(std::string address, const ClientOptions& options);

  // What keeps the request from being sent, or an empty string.
  std::string WhyNotSent(const std::string& header, const std::vector<Tensor>& tensors) const;
  // Checks a query's place for outputs and marks it as taken until the reply.
  // Marks the places of a query in leased memory as in use, or says which one is taken.
  Status ClaimPlaces(const std::vector<LeasedBlock>& inputs, const LeasedBlock& outputs);
  Status ClaimOutputs(const LeasedBlock& outputs) const;

  // I/O thread.
  void Run();
  int PollTimeoutMs() const;
  void TakeSubmitted();
  void CancelQuery(uint64_t id);
  void SendWaiting();
  bool TrySend(Query& query);
  bool TrySendCancel(uint64_t id);
  void ReceiveReplies();
  void HandleReply(std::vector<zmq::message_t> frames);
  // Makes tensors of the outputs that the header lists. `place`: of the query's outputs; null: nobody waits for them.
  // Returns what is wrong, or an empty string.
  static std::string TakeOutputs(std::vector<zmq::message_t> frames, const LeasedBlock* place, Answer* answer);
  void ExpireQueries();
  void FailAll();
  void Finish(uint64_t id, Result<Answer> answer);

  // Constant after construction.
  const std::string address_;
  const ClientOptions options_;
  const pid_t pid_;
  const uint64_t number_;
  const int wake_fd_;  // eventfd: submitted_ or cancels_ are not empty, or stopping_

  // What the server takes, from its last reply that said so; 0: unknown.
  std::atomic<uint64_t> max_frame_bytes_{0};
  std::atomic<uint64_t> max_message_bytes_{0};

  std::atomic<uint64_t> next_id_{1};
  std::atomic<size_t> outstanding_{0};
  std::atomic<bool> stopping_{false};
  struct {
    std::atomic<uint64_t> sent{0}, replies{0}, timeouts{0}, late{0}, duplicates{0}, malformed{0};
  } counts_;

  std::mutex places_mutex_;  // one ClaimPlaces at a time
  std::mutex mutex_;
  std::vector<Query> submitted_;   // guarded by mutex_
  std::vector<uint64_t> cancels_;  // guarded by mutex_

  // I/O thread.
  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
  std::unordered_map<uint64_t, Query> queries_;  // without answer, sent or not
  std::deque<uint64_t> waiting_;          // to be sent, oldest first; ids that are no longer in queries_ are skipped
  std::deque<uint64_t> waiting_cancels_;  // the same, of queries that were sent
  using Deadline = std::pair<Clock::time_point, uint64_t>;
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;  // answered queries stay until due
  std::map<uint64_t, LateBlock> timed_out_;  // tells late replies from duplicates; the oldest are forgotten

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace abacus

#endif  // ABACUS_CLIENT_CHANNEL_H_
