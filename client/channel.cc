#include "client/channel.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/endpoint.h"

namespace abacus {
namespace {

constexpr auto kLongestTimeout = std::chrono::hours(24 * 365 * 100);  // from here on: none, or the clock overflows

std::atomic<uint64_t> g_next_channel{1};

// Where in its region a tensor lies that a query through this channel may name there; nullopt: it has to be sent.
std::optional<uint64_t> OffsetInRegion(const Tensor& tensor, uint64_t channel) {
  if (tensor.region == nullptr || tensor.region->channel() != channel || !tensor.region->Alive()) return std::nullopt;
  return tensor.region->OffsetOf(tensor.bytes);
}

constexpr std::string_view kBusy =
    "lies in memory that an earlier query may still write its outputs to; wait for its reply, or use another place";
constexpr std::string_view kHoldsInputs =
    "lies over inputs of an earlier query, which the server may still have to read; wait for its reply, or use another "
    "place";

// What is wrong with the tensors of a request, or an empty string.
std::string CheckTensors(const std::vector<Tensor>& tensors) {
  if (tensors.size() > protocol::kMaxTensors) {
    return "a query has at most " + std::to_string(protocol::kMaxTensors) + " inputs, not " +
           std::to_string(tensors.size());
  }
  for (const Tensor& tensor : tensors) {
    const std::string who = "input '" + tensor.name + "'";
    if (tensor.name.empty() || tensor.name.size() > protocol::kMaxNameBytes) {
      return who + ": a name has 1 to " + std::to_string(protocol::kMaxNameBytes) + " bytes";
    }
    const auto expected = TensorBytes(tensor.dtype, tensor.shape);
    if (!expected) return who + ": no tensor has the shape " + tensor.shape.ToString();
    if (tensor.bytes.size() != *expected) {
      return who + ": " + std::string(DTypeName(tensor.dtype)) + tensor.shape.ToString() + " takes " +
             std::to_string(*expected) + " bytes, not " + std::to_string(tensor.bytes.size());
    }
    if (tensor.region == nullptr) continue;
    const auto offset = tensor.region->OffsetOf(tensor.bytes);
    if (offset && tensor.region->Claimed(*offset, tensor.bytes.size())) return who + " " + std::string(kBusy);
  }
  return "";
}

std::string Describe(const protocol::Request& request) {
  switch (request.type) {
    case protocol::RequestType::kInfer:
      return "query to model '" + request.model + "'";
    case protocol::RequestType::kModels:
      return "models request";
    case protocol::RequestType::kHealth:
      return "health request";
    case protocol::RequestType::kCancel:
      break;  // no query of its own
  }
  return "request";
}

// What is wrong with the options, or an empty string.
std::string CheckOptions(const ClientOptions& options) {
  using std::chrono::milliseconds;
  constexpr milliseconds kLongest = std::chrono::hours(1);
  if (options.connect_timeout <= milliseconds::zero()) return "connect_timeout must be at least 1 ms";
  if (options.receive_timeout <= milliseconds::zero()) return "receive_timeout must be at least 1 ms";
  if (options.linger < milliseconds::zero() || options.linger > kLongest) return "linger must be from 0 ms to 1 h";
  if (options.reconnect_interval <= milliseconds::zero() || options.reconnect_interval > kLongest) {
    return "reconnect_interval must be from 1 ms to 1 h";
  }
  if (options.max_outstanding == 0) return "max_outstanding must be at least 1";
  if (options.high_water_mark < 0) return "high_water_mark must not be negative";
  if (options.max_frame_bytes <= 0) return "max_frame_bytes must be positive";
  return "";
}

// Signals are for the program's own threads: blocks them for the threads started in its scope.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Channel::Channel(std::string address, const ClientOptions& options)
    : address_(std::move(address)),
      options_(options),
      pid_(getpid()),
      number_(g_next_channel.fetch_add(1)),
      wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Result<std::unique_ptr<Channel>> Channel::Open(const std::string& address, const ClientOptions& options) {
  if (std::string wrong = CheckOptions(options); !wrong.empty()) {
    return Error(StatusCode::kInvalidArgument, "ClientOptions: " + wrong);
  }
  const Result<bool> ipv6 = NeedsIpv6(address);
  if (!ipv6) return Error(ipv6.error());
  try {
    std::unique_ptr<Channel> channel(new Channel(address, options));
    if (channel->wake_fd_ < 0) {
      return Error(StatusCode::kUnavailable, std::string("no eventfd for a client: ") + std::strerror(errno));
    }
    zmq::socket_t& socket = channel->socket_;
    socket.set(zmq::sockopt::linger, static_cast<int>(options.linger.count()));
    socket.set(zmq::sockopt::sndhwm, options.high_water_mark);
    socket.set(zmq::sockopt::rcvhwm, options.high_water_mark);
    socket.set(zmq::sockopt::maxmsgsize, options.max_frame_bytes);
    socket.set(zmq::sockopt::immediate, true);  // without a connection nothing is queued inside ZeroMQ
    socket.set(zmq::sockopt::reconnect_ivl, static_cast<int>(options.reconnect_interval.count()));
    socket.set(zmq::sockopt::reconnect_ivl_max, 2'000);
    socket.set(zmq::sockopt::heartbeat_ivl, 5'000);  // finds a peer whose machine is gone
    socket.set(zmq::sockopt::heartbeat_timeout, 15'000);
    socket.set(zmq::sockopt::ipv6, *ipv6);
    socket.connect(address);
    const SignalsBlocked blocked;
    channel->thread_ = std::thread([raw = channel.get()] { raw->Run(); });
    return channel;
  } catch (const zmq::error_t& error) {
    return Error(StatusCode::kInvalidArgument, "cannot connect to '" + address + "': " + error.what() +
                                                   "; an address looks like tcp://host:5570 or ipc:///path");
  }
}

bool Channel::forked() const { return getpid() != pid_; }

Channel::~Channel() {
  stopping_.store(true);
  if (thread_.joinable()) {
    eventfd_write(wake_fd_, 1);
    thread_.join();
  }
  socket_.close();
  context_.close();  // waits for the lingering bytes, and so for the last use of the senders' tensors
  if (wake_fd_ >= 0) close(wake_fd_);
}

uint64_t Channel::Send(protocol::Request request, std::vector<Tensor> tensors, LeasedBlock outputs,
                       std::chrono::milliseconds timeout, Done done) {
  const auto refuse = [&done](StatusCode code, std::string why) {
    done(Error(code, std::move(why)));
    return uint64_t{0};
  };
  if (forked()) {
    return refuse(StatusCode::kUnavailable, "the client of " + address_ + " was made in process " +
                                                std::to_string(pid_) + ", of which this one, " +
                                                std::to_string(getpid()) +
                                                ", is a fork; make a client of its own in the child");
  }
  if (std::string wrong = CheckTensors(tensors); !wrong.empty()) {
    return refuse(StatusCode::kInvalidArgument, std::move(wrong));
  }
  if (request.model.size() > protocol::kMaxNameBytes) {
    return refuse(StatusCode::kInvalidArgument,
                  "a model name has at most " + std::to_string(protocol::kMaxNameBytes) + " bytes");
  }
  Query query;
  query.id = request.id = next_id_.fetch_add(1);
  for (Tensor& tensor : tensors) {
    protocol::TensorHeader& input = request.inputs.emplace_back();
    input.name = tensor.name;
    input.dtype = tensor.dtype;
    input.shape = tensor.shape;
    if (const auto offset = OffsetInRegion(tensor, number_)) {
      input.region = tensor.region->id();
      input.offset = offset;
      query.leased.push_back({std::move(tensor.region), *offset, tensor.bytes.size()});
    } else {
      query.tensors.push_back(std::move(tensor));
    }
  }
  if (outputs.region != nullptr) {
    request.outputs_region = outputs.region->id();
    request.outputs_offset = outputs.offset;
    request.outputs_bytes = outputs.bytes;
  }
  protocol::EncodeRequest(request, &query.header);
  if (std::string wrong = WhyNotSent(query.header, query.tensors); !wrong.empty()) {
    return refuse(StatusCode::kInvalidArgument, std::move(wrong));
  }
  if (outstanding_.fetch_add(1) >= options_.max_outstanding) {
    outstanding_.fetch_sub(1);
    return refuse(StatusCode::kOverloaded, std::to_string(options_.max_outstanding) + " queries to " + address_ +
                                               " are outstanding already (ClientOptions::max_outstanding)");
  }
  if (Status wrong = ClaimPlaces(query.leased, outputs); !wrong.ok()) {
    outstanding_.fetch_sub(1);
    return refuse(wrong.code(), wrong.message());
  }
  query.outputs = std::move(outputs);
  query.inference = request.type == protocol::RequestType::kInfer;
  query.what = Describe(request);
  query.timeout = timeout;
  query.deadline = timeout < kLongestTimeout ? Clock::now() + timeout : Clock::time_point::max();
  query.done = std::move(done);
  for (Tensor& tensor : query.tensors) {
    if (tensor.owner == nullptr) {
      tensor = Tensor::Own(tensor.name, tensor.dtype, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()});
    }
  }

  const uint64_t id = query.id;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    wake = submitted_.empty() && cancels_.empty();  // otherwise the wakeup of the first one is still to be seen
    submitted_.push_back(std::move(query));
  }
  if (wake) eventfd_write(wake_fd_, 1);
  return id;
}

Status Channel::ClaimPlaces(const std::vector<LeasedBlock>& inputs, const LeasedBlock& outputs) {
  if (inputs.empty() && outputs.region == nullptr) return Status::Ok();
  // Checked and taken as one step: of two queries that are sent at once one sees what the other took.
  const std::lock_guard lock(places_mutex_);
  for (const LeasedBlock& input : inputs) {
    if (input.region->Claimed(input.offset, input.bytes)) {
      return Status(StatusCode::kInvalidArgument, "an input " + std::string(kBusy));
    }
  }
  ABACUS_RETURN_IF_ERROR(ClaimOutputs(outputs));
  for (const LeasedBlock& input : inputs) input.region->BeginRead(input.offset, input.bytes);
  return Status::Ok();
}

Status Channel::ClaimOutputs(const LeasedBlock& outputs) const {
  if (outputs.region == nullptr) return Status::Ok();
  const auto invalid = [](std::string why) {
    return Status(StatusCode::kInvalidArgument, "the block for outputs " + std::move(why));
  };
  if (outputs.region->channel() != number_) return invalid("was leased by another client");
  if (outputs.bytes == 0 || !outputs.region->Holds(outputs.offset, outputs.bytes)) {
    return invalid("does not lie inside its lease");
  }
  if (!outputs.region->Alive()) {
    return Status(StatusCode::kUnavailable, "the lease of the block for outputs ended with the server at " + address_ +
                                                " that gave it; take a new one");
  }
  if (outputs.region->HoldsInputs(outputs.offset, outputs.bytes)) return invalid(std::string(kHoldsInputs));
  if (!outputs.region->Claim(outputs.offset, outputs.bytes)) return invalid(std::string(kBusy));
  return Status::Ok();
}

void Channel::Cancel(uint64_t id) {
  if (forked()) return;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    wake = submitted_.empty() && cancels_.empty();
    cancels_.push_back(id);
  }
  if (wake) eventfd_write(wake_fd_, 1);
}

std::string Channel::WhyNotSent(const std::string& header, const std::vector<Tensor>& tensors) const {
  const uint64_t largest = max_frame_bytes_.load();
  const uint64_t most = max_message_bytes_.load();
  uint64_t total = header.size();
  for (const Tensor& tensor : tensors) {
    const uint64_t size = tensor.bytes.size();
    total += size;
    if (largest != 0 && size > largest) {
      return "input '" + tensor.name + "' has " + std::to_string(size) + " bytes; the server takes " +
             std::to_string(largest) + " ([limits] max_frame_mib of its configuration)";
    }
  }
  if (most == 0 || total <= most) return "";
  return "the query has " + std::to_string(total) + " bytes; the server takes " + std::to_string(most) +
         " ([limits] max_message_mib of its configuration)";
}

ClientCounters Channel::counters() const {
  return {counts_.sent.load(), counts_.replies.load(),    counts_.timeouts.load(),
          counts_.late.load(), counts_.duplicates.load(), counts_.malformed.load()};
}

}  // namespace abacus
