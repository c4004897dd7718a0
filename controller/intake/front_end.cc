#include "controller/intake/front_end.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <span>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr size_t kReceiveBatch = 64;  // messages per iteration, so replies are never far away
constexpr uint64_t kSleepMs = 100;
constexpr uint64_t kClientSweepNs = kNsPerSecond;  // idle clients are forgotten this often
constexpr int kReceiveHighWater = 256;             // messages that ZeroMQ holds per connection while we are busy
constexpr int kLingerMs = 200;
constexpr uint64_t kMemorySlackBytes = 512ull << 20;

// ZeroMQ lets a second bind take an ipc path over without an error, so ask first whether somebody answers there.
bool IpcPathInUse(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const bool answered = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return answered;
}

}  // namespace

FrontEnd::FrontEnd(const ServerConfig& server, const LimitsConfig& limits, ServiceSetPtr services, Region* region,
                   QueryTable* table, QueryChannel* channel, std::function<void()> wake_scheduler)
    : region_(*region),
      channel_(*channel),
      wake_scheduler_(std::move(wake_scheduler)),
      context_(server.io_threads),
      router_(context_, zmq::socket_type::router),
      arena_(region->arena().size()),
      clients_(limits, table),
      replies_(&router_, region, table, &arena_, &clients_),
      ingress_(limits, std::move(services), region, table, &arena_, &clients_, &replies_),
      frames_(limits.max_frames) {}

FrontEnd::~FrontEnd() {
  guard_.reset();
  router_.close();
  context_.close();  // returns every frame that is still out, so table and arena may go afterwards
}

Result<std::unique_ptr<FrontEnd>> FrontEnd::Create(const ServerConfig& server, const LimitsConfig& limits,
                                                   ServiceSetPtr services, const std::string& ipc_path, Region* region,
                                                   QueryTable* table, QueryChannel* channel,
                                                   std::function<void()> wake_scheduler) {
  std::unique_ptr<FrontEnd> front_end(
      new FrontEnd(server, limits, std::move(services), region, table, channel, std::move(wake_scheduler)));
  zmq::socket_t& router = front_end->router_;
  router.set(zmq::sockopt::router_mandatory, true);  // a reply to a vanished client is an error that we count
  router.set(zmq::sockopt::linger, kLingerMs);
  router.set(zmq::sockopt::rcvhwm, kReceiveHighWater);
  router.set(zmq::sockopt::sndhwm, 0);  // bounded by our own count per client, which can tell the client why
  router.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(limits.max_frame_bytes));
  front_end->guard_ = std::make_unique<ConnectionGuard>(
      &front_end->context_, &router,
      ConnectionGuard::Limits{limits.max_message_bytes, 4 * limits.max_message_bytes + kMemorySlackBytes,
                              limits.max_clients});
  for (const std::string& endpoint : server.listen) ABACUS_RETURN_IF_ERROR(front_end->Bind(endpoint));
  if (server.ipc) ABACUS_RETURN_IF_ERROR(front_end->Bind("ipc://" + ipc_path));
  return front_end;
}

Status FrontEnd::Bind(const std::string& endpoint) {
  if (endpoint.starts_with("ipc://") && IpcPathInUse(endpoint.substr(6))) {
    return {StatusCode::kUnavailable, "cannot listen on " + endpoint + ": another program answers there"};
  }
  try {
    router_.set(zmq::sockopt::ipv6, endpoint.find('[') != std::string::npos);  // tcp://[::1]:5570
    router_.bind(endpoint);
    endpoints_.push_back(router_.get(zmq::sockopt::last_endpoint));
    return Status::Ok();
  } catch (const zmq::error_t& e) {
    return {StatusCode::kUnavailable,
            "cannot listen on " + endpoint + ": " + e.what() +
                (e.num() == EADDRINUSE ? "; stop the other program or change [server] listen" : "")};
  }
}

void FrontEnd::Publish(ServiceSetPtr services) {
  published_.Post(std::move(services));
  waker_.Wake();
}

void FrontEnd::Run(const std::atomic<bool>& stop) {
  while (!stop.load(std::memory_order_acquire)) {
    for (ServiceSetPtr& services : published_.Take()) ingress_.Serve(std::move(services));
    replies_.Reclaim();
    size_t work = SendFinished();
    work += ReceiveSome();
    CheckConnections(MonotonicNs());
    if (work == 0) Sleep(stop);
  }
}

size_t FrontEnd::SendFinished() {
  std::array<uint32_t, kReceiveBatch> slots;
  const size_t count = channel_.done.pop(slots.data(), slots.size());
  for (size_t i = 0; i < count; ++i) replies_.SendResult(slots[i]);
  return count;
}

size_t FrontEnd::ReceiveSome() {
  size_t received = 0;
  while (received < kReceiveBatch && ReceiveOne()) ++received;
  if (!submitted_.empty()) {
    channel_.submitted.push(submitted_.data(), submitted_.size());  // has room for every accepted query
    submitted_.clear();
    wake_scheduler_();
  }
  return received;
}

bool FrontEnd::ReceiveOne() {
  zmq::message_t identity;
  if (!router_.recv(identity, zmq::recv_flags::dontwait)) return false;
  const Message message = ReceiveFrames(identity.more());
  Peer* peer = clients_.PeerOf({static_cast<const char*>(identity.data()), identity.size()});
  if (peer->fd < 0 && !message.frames.empty()) peer->fd = zmq_msg_get(frames_[0].handle(), ZMQ_SRCFD);
  guard_->Delivered(peer->fd);
  if (clients_.CutOff(*peer)) {
    BumpOwned(region_.header().rejected_messages);  // it does not read its replies; nothing more for it
  } else if (const auto slot = ingress_.Handle(peer, message)) {
    submitted_.push_back(*slot);
  }
  for (size_t i = 0; i < message.frames.size(); ++i) frames_[i].rebuild();
  return true;
}

Message FrontEnd::ReceiveFrames(bool more) {
  Message message;
  size_t count = 0;
  zmq::message_t dropped;
  while (more) {  // ZeroMQ delivers whole messages, so this never waits
    message.surplus |= count == frames_.size();
    zmq::message_t& frame = message.surplus ? dropped : frames_[count];
    if (!router_.recv(frame, zmq::recv_flags::none)) break;
    message.bytes += frame.size();
    more = frame.more();
    if (!message.surplus) ++count;
  }
  message.frames = {frames_.data(), count};
  return message;
}

void FrontEnd::CheckConnections(uint64_t now_ns) {
  if (const uint32_t closed = guard_->Check(now_ns)) {
    BumpOwned(region_.header().closed_connections, uint64_t{closed});
  }
  if (now_ns < next_sweep_ns_) return;
  next_sweep_ns_ = now_ns + kClientSweepNs;
  clients_.Sweep();
}

void FrontEnd::Sleep(const std::atomic<bool>& stop) {
  waker_.PrepareSleep();
  if (channel_.done.read_available() == 0 && published_.empty() && !stop.load(std::memory_order_acquire)) {
    std::array<zmq::pollitem_t, 3> items = {{{router_.handle(), 0, ZMQ_POLLIN, 0},
                                             {nullptr, waker_.fd(), ZMQ_POLLIN, 0},
                                             {guard_->monitor().handle(), 0, ZMQ_POLLIN, 0}}};
    // A signal may end it early; the next iteration looks at everything anyway. While connections exist the guard is
    // due every few milliseconds, but only bytes without messages need it, and those do not end the poll.
    zmq_poll(reinterpret_cast<zmq_pollitem_t*>(items.data()), static_cast<int>(items.size()),
             guard_->watching() ? 10 : kSleepMs);
  }
  waker_.FinishSleep();
}

}  // namespace abacus
