// Client: sends queries to one Abacus controller and hands back its replies.
//
//   auto client = Client::Connect("tcp://127.0.0.1:5570");
//   if (!client) return client.error();
//   Result<InferReply> reply = (*client)->Infer({.model = "resnet50", .inputs = {Tensor::Own(...)}});
//   if (reply && reply->status.ok()) Use(reply->outputs[0].bytes);
//
// Two kinds of failure are kept apart. The Result is an error when no reply was had: TIMEOUT (sent, no answer within
// the time limit: the server may have run the query), UNAVAILABLE (never sent, or the client was closed),
// INVALID_ARGUMENT and OVERLOADED (refused here, see the message), INTERNAL (the reply was malformed). When the server
// answered, the Result holds its reply, whose `status` may still be an error such as DEADLINE_EXCEEDED, with its
// timing.
//
// Delivery is at most once: nothing is sent twice. When the server goes away, queries that it holds run into their time
// limit; the connection comes back by itself.
//
// A query can be cancelled until its reply is there: Cancel(id). Its reply then has status CANCELLED, or the one that
// it had already got; like any other query it gets exactly one, within its time limit.
//
// Threads: every method may be called from any thread. One background thread per Client owns the socket, and calls the
// callbacks; a callback must be quick, must not throw, and must not call a blocking method of its Client nor destroy
// it. Clients share nothing: one per address.
//
// Processes: a Client belongs to the process that made it. In a forked child its calls fail with UNAVAILABLE, and its
// destructor leaves the parent's connection alone; the child makes a Client of its own. A std::future that was had
// before the fork is never ready there.
#ifndef ABACUS_CLIENT_CLIENT_H_
#define ABACUS_CLIENT_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/lease.h"
#include "client/protocol.h"
#include "client/tensor.h"

namespace abacus {

// A time limit of ClientOptions that never passes.
inline constexpr std::chrono::milliseconds kNoTimeout = std::chrono::milliseconds::max();

// Latency targets of queries are at most an hour, as in the configuration of the server.
inline constexpr uint64_t kLongestQosUs = 3'600'000'000;

// Connect refuses values that mean nothing: time limits below 1 ms, negative waits, no room at all.
struct ClientOptions {
  std::chrono::milliseconds connect_timeout{5'000};   // until the server has answered the first time; or kNoTimeout
  std::chrono::milliseconds receive_timeout{30'000};  // of every query, from its submission; or kNoTimeout
  std::chrono::milliseconds linger{100};              // longest that closing waits for unsent bytes
  std::chrono::milliseconds reconnect_interval{100};  // after a lost connection; doubles up to 2 s
  size_t max_outstanding = 100'000;                   // queries without reply; more are refused with OVERLOADED
  int high_water_mark = 1'000;                        // messages that the socket buffers in each direction
  int64_t max_frame_bytes = int64_t{1} << 30;         // a larger frame from the server closes the connection
};

// A synthetic query carries no tensors: the server runs the bucket on its own input. For load tests.
struct SyntheticShape {
  uint32_t batch = 1;
  uint32_t sequence = 0;  // 0: the model has no sequence dimension
};

struct InferRequest {
  std::string model;
  std::vector<Tensor> inputs;
  uint64_t qos_us = 0;  // latency target, at most kLongestQosUs; 0: the service's own
  std::optional<SyntheticShape> synthetic = std::nullopt;
  LeasedBlock outputs = {};  // where the server writes the outputs (client/lease.h); none: they come in frames
};

struct InferReply {
  Status status;      // as the server reported it
  std::string field;  // INVALID_ARGUMENT: path of the offending field
  std::string model;
  std::vector<Tensor> outputs;  // not copied: they own the received frames, or lie in the query's block
  protocol::Timing timing;
  std::string digest;  // of the model that answered: the first 16 hexadecimal digits
};

struct ServerHealth {
  bool ready = false;  // every service can take queries
  std::vector<protocol::ServiceHealth> services;
  uint64_t max_frame_bytes = 0;    // largest tensor that the server takes; 0: it does not say
  uint64_t max_message_bytes = 0;  // largest message, header and tensors together
  std::string lease;               // path of its lease socket; empty: it gives no leases
};

struct ClientCounters {
  uint64_t sent = 0;        // messages handed to the socket
  uint64_t replies = 0;     // well-formed replies to a query that waited for it
  uint64_t timeouts = 0;    // queries that got none in time
  uint64_t late = 0;        // replies to a query whose time limit had passed; dropped
  uint64_t duplicates = 0;  // replies to a query that already had one, or was never sent; dropped
  uint64_t malformed = 0;   // replies that could not be read, or whose frames do not fit their header
};

class Channel;

// A reply that is to come, and the number of its query.
class PendingReply : public std::future<Result<InferReply>> {
 public:
  PendingReply() = default;
  PendingReply(std::future<Result<InferReply>> reply, uint64_t id)
      : std::future<Result<InferReply>>(std::move(reply)), id_(id) {}
  uint64_t id() const { return id_; }

 private:
  uint64_t id_ = 0;
};

class Client {
 public:
  using Callback = std::function<void(Result<InferReply>)>;

  // `address` is a ZeroMQ endpoint such as tcp://host:5570, tcp://[::1]:5570 or ipc:///path; a name that has an IPv4
  // and an IPv6 address stands for the former. Makes one health round trip, so that a wrong address is an error here
  // that names it. The server need not be ready.
  static Result<std::unique_ptr<Client>> Connect(const std::string& address, const ClientOptions& options = {});
  // Queries without reply fail with UNAVAILABLE. Takes at most about options.linger.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `done` is called exactly once: on the background thread, or by this call where the request is refused locally. So
  // is a query that is larger than the server said it takes (Models and Health bring its limits, as did Connect):
  // sending it would end the connection. Returns the query's id; 0: it was refused.
  uint64_t SubmitAsync(InferRequest request, Callback done);
  PendingReply Submit(InferRequest request);
  Result<InferReply> Infer(InferRequest request);

  // Takes a query back, or all. Never waits, may be called from a callback, and does nothing to a query that has its
  // reply, was cancelled before, or is none of ours. One that was not sent yet is answered CANCELLED by this client.
  void Cancel(uint64_t id);
  void CancelAll();

  // Memory of at least `bytes` that is shared with the server; queries through this client can name tensors in it and
  // let their outputs be written to it. Blocks for a round trip. UNAVAILABLE: the server gives no leases, is on another
  // machine, or serves another user; OVERLOADED, INVALID_ARGUMENT: its limits.
  Result<LeasedMemory> Lease(size_t bytes);

  // Blocking round trips; a reply that is not OK becomes an error.
  Result<std::vector<protocol::ModelDescription>> Models();
  Result<ServerHealth> Health();

  const std::string& address() const { return address_; }
  ClientCounters counters() const;

 private:
  Client(std::string address, const ClientOptions& options, std::unique_ptr<Channel> channel);
  Result<protocol::Reply> RoundTrip(protocol::RequestType type, std::chrono::milliseconds timeout);
  Status CheckMayBlock() const;

  const std::string address_;
  const ClientOptions options_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace abacus

#endif  // ABACUS_CLIENT_CLIENT_H_
