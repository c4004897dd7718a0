#include "client/channel.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/duration.h"
#include "base/endpoint.h"

namespace abacus {
namespace {

constexpr size_t kMaxFrames = 1 + protocol::kMaxTensors;
constexpr size_t kMaxRepliesPerTurn = 256;                            // then sending and time limits get their turn
constexpr size_t kMaxRememberedTimeouts = 100'000;                    // ids kept to recognise late replies
constexpr auto kLongestTimeout = std::chrono::hours(24 * 365 * 100);  // from here on: none, or the clock overflows
constexpr size_t kCopiedBytes = 1024;                                 // up to here a copy is cheaper than sharing

// Keeps a payload alive while ZeroMQ has it. The order from its maker to the I/O thread that ends it is our own, so
// that it holds, and ThreadSanitizer sees it, whatever happens inside ZeroMQ.
struct Loan {
  std::shared_ptr<const void> owner;
  std::atomic<bool> made{false};
};

// A frame with the tensor's bytes; large ones are shared with ZeroMQ instead of copied.
zmq::message_t MakeFrame(const Tensor& tensor) {
  if (tensor.bytes.size() <= kCopiedBytes) return {tensor.bytes.data(), tensor.bytes.size()};
  auto* loan = new Loan{tensor.owner};
  loan->made.store(true, std::memory_order_release);
  const auto release = [](void*, void* hint) {
    auto* done = static_cast<Loan*>(hint);
    done->made.load(std::memory_order_acquire);
    delete done;
  };
  return {const_cast<std::byte*>(tensor.bytes.data()), tensor.bytes.size(), release, loan};
}

std::span<const std::byte> BytesOf(const zmq::message_t& frame) {
  return {static_cast<const std::byte*>(frame.data()), frame.size()};
}

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

void Channel::Send(protocol::Request request, std::vector<Tensor> tensors, std::chrono::milliseconds timeout,
                   Done done) {
  if (forked()) {
    return done(Error(StatusCode::kUnavailable, "the client of " + address_ + " was made in process " +
                                                    std::to_string(pid_) + ", of which this one, " +
                                                    std::to_string(getpid()) +
                                                    ", is a fork; make a client of its own in the child"));
  }
  if (std::string wrong = CheckTensors(tensors); !wrong.empty()) {
    return done(Error(StatusCode::kInvalidArgument, std::move(wrong)));
  }
  if (request.model.size() > protocol::kMaxNameBytes) {
    return done(Error(StatusCode::kInvalidArgument,
                      "a model name has at most " + std::to_string(protocol::kMaxNameBytes) + " bytes"));
  }
  request.id = next_id_.fetch_add(1);
  for (const Tensor& tensor : tensors) request.inputs.push_back({tensor.name, tensor.dtype, tensor.shape});
  std::string header;
  protocol::EncodeRequest(request, &header);
  if (std::string wrong = WhyNotSent(header, tensors); !wrong.empty()) {
    return done(Error(StatusCode::kInvalidArgument, std::move(wrong)));
  }
  if (outstanding_.fetch_add(1) >= options_.max_outstanding) {
    outstanding_.fetch_sub(1);
    return done(Error(StatusCode::kOverloaded, std::to_string(options_.max_outstanding) + " queries to " + address_ +
                                                   " are outstanding already (ClientOptions::max_outstanding)"));
  }
  Query query;
  query.id = request.id;
  query.what = Describe(request);
  query.header = std::move(header);
  query.timeout = timeout;
  query.deadline = timeout < kLongestTimeout ? Clock::now() + timeout : Clock::time_point::max();
  query.done = std::move(done);
  for (Tensor& tensor : tensors) {
    if (tensor.owner == nullptr) {
      tensor = Tensor::Own(tensor.name, tensor.dtype, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()});
    }
  }
  query.tensors = std::move(tensors);

  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    wake = submitted_.empty();  // otherwise the wakeup of the first one is still to be seen
    submitted_.push_back(std::move(query));
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

void Channel::Run() {
  while (!stopping_.load()) {
    std::array<zmq_pollitem_t, 2> items = {{
        {socket_.handle(), 0, static_cast<short>(waiting_.empty() ? ZMQ_POLLIN : ZMQ_POLLIN | ZMQ_POLLOUT), 0},
        {nullptr, wake_fd_, ZMQ_POLLIN, 0},
    }};
    zmq_poll(items.data(), static_cast<int>(items.size()), PollTimeoutMs());
    TakeSubmitted();
    SendWaiting();
    ReceiveReplies();
    ExpireQueries();
  }
  FailAll();
}

int Channel::PollTimeoutMs() const {
  if (deadlines_.empty()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadlines_.top().first - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
}

void Channel::TakeSubmitted() {
  eventfd_t count = 0;
  eventfd_read(wake_fd_, &count);  // before the queue is read: a later submission wakes again
  std::vector<Query> taken;
  {
    const std::lock_guard lock(mutex_);
    taken.swap(submitted_);
  }
  for (Query& query : taken) {
    const uint64_t id = query.id;
    waiting_.push_back(id);
    deadlines_.emplace(query.deadline, id);
    queries_.emplace(id, std::move(query));
  }
}

void Channel::SendWaiting() {
  while (!waiting_.empty()) {
    const auto query = queries_.find(waiting_.front());
    if (query != queries_.end() && !TrySend(query->second)) return;  // the socket is full or not connected
    waiting_.pop_front();
  }
}

bool Channel::TrySend(Query& query) {
  const auto flags = [&](size_t frames_after) {
    return frames_after > 0 ? zmq::send_flags::dontwait | zmq::send_flags::sndmore : zmq::send_flags::dontwait;
  };
  size_t left = query.tensors.size();
  if (!socket_.send(zmq::message_t(query.header.data(), query.header.size()), flags(left))) return false;
  for (const Tensor& tensor : query.tensors) {
    // Fails when the connection was lost since the first frame; ZeroMQ has then taken the whole message back.
    if (!socket_.send(MakeFrame(tensor), flags(--left))) return false;
  }
  query.header.clear();
  query.tensors.clear();
  counts_.sent.fetch_add(1);
  return true;
}

void Channel::ReceiveReplies() {
  for (size_t i = 0; i < kMaxRepliesPerTurn; ++i) {
    std::vector<zmq::message_t> frames(1);
    if (!socket_.recv(frames[0], zmq::recv_flags::dontwait)) return;
    bool more = frames[0].more();
    while (more) {
      zmq::message_t frame;
      if (!socket_.recv(frame)) break;  // the rest of a message is there once its first frame is
      more = frame.more();
      if (frames.size() <= kMaxFrames) frames.push_back(std::move(frame));
    }
    HandleReply(std::move(frames));
  }
}

void Channel::HandleReply(std::vector<zmq::message_t> frames) {
  Answer answer;
  protocol::Reply& header = answer.header;
  std::string wrong;
  const auto decoded = protocol::DecodeReply(BytesOf(frames[0]), &header);
  if (!decoded) {
    wrong = decoded.error().field + " " + decoded.error().message;
    header.id = decoded.error().id;  // 0, which no query has, where it could not be read
  } else if (frames.size() != 1 + header.outputs.size()) {
    wrong = std::to_string(header.outputs.size()) + " outputs announced but " + std::to_string(frames.size() - 1) +
            " frames received";
  }
  for (size_t i = 0; wrong.empty() && i < header.outputs.size(); ++i) {
    auto& [name, dtype, shape] = header.outputs[i];
    auto frame = std::make_shared<const zmq::message_t>(std::move(frames[i + 1]));
    if (frame->size() != TensorBytes(dtype, shape)) {
      wrong = "output '" + name + "' with shape " + shape.ToString() + " came as " + std::to_string(frame->size()) +
              " bytes";
    }
    const auto bytes = BytesOf(*frame);
    answer.outputs.push_back({std::move(name), dtype, shape, bytes, std::move(frame)});
  }
  if (wrong.empty() && header.max_frame_bytes != 0) max_frame_bytes_.store(header.max_frame_bytes);
  if (wrong.empty() && header.max_message_bytes != 0) max_message_bytes_.store(header.max_message_bytes);
  if (!wrong.empty()) {
    counts_.malformed.fetch_add(1);
    if (queries_.contains(header.id)) {
      Finish(header.id, Error(StatusCode::kInternal, "malformed reply from " + address_ + ": " + wrong));
    }
  } else if (queries_.contains(header.id)) {
    counts_.replies.fetch_add(1);
    Finish(header.id, std::move(answer));
  } else if (timed_out_.erase(header.id) > 0) {
    counts_.late.fetch_add(1);
  } else {
    counts_.duplicates.fetch_add(1);
  }
}

void Channel::ExpireQueries() {
  const auto now = Clock::now();
  while (!deadlines_.empty()) {
    const auto [deadline, id] = deadlines_.top();
    const auto found = queries_.find(id);
    if (found != queries_.end()) {
      if (deadline > now) return;
      const Query& query = found->second;
      const std::string limit = FormatDuration(static_cast<uint64_t>(query.timeout / std::chrono::nanoseconds(1)));
      counts_.timeouts.fetch_add(1);
      if (query.header.empty()) {
        if (timed_out_.size() == kMaxRememberedTimeouts) timed_out_.erase(timed_out_.begin());
        timed_out_.insert(id);
        Finish(id, Error(StatusCode::kTimeout, "no reply to " + query.what + " from " + address_ + " within " + limit));
      } else {
        Finish(id, Error(StatusCode::kUnavailable,
                         "no connection to " + address_ + " within " + limit + ": " + query.what + " was not sent"));
      }
    }
    deadlines_.pop();
  }
}

void Channel::FailAll() {
  TakeSubmitted();
  while (!queries_.empty()) {
    const Query& query = queries_.begin()->second;
    const std::string sent = query.header.empty() ? "was without reply" : "was not sent yet";
    Finish(query.id,
           Error(StatusCode::kUnavailable, "the client of " + address_ + " was closed; " + query.what + " " + sent));
  }
}

void Channel::Finish(uint64_t id, Result<Answer> answer) {
  const auto query = queries_.extract(id);
  outstanding_.fetch_sub(1);
  query.mapped().done(std::move(answer));
}

}  // namespace abacus
