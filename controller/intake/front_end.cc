#include "controller/intake/front_end.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/endpoint.h"

namespace abacus {
namespace {

constexpr size_t kReceiveBatch = 64;  // messages per iteration, so replies are never far away
constexpr uint64_t kSleepMs = 100;
constexpr uint64_t kClientSweepNs = kNsPerSecond;  // idle clients are forgotten this often
constexpr size_t kOwnIdBytes = 5;                  // of the routing ids that ZeroMQ makes up: a zero and a number
constexpr int kReceiveHighWater = 256;             // messages that ZeroMQ holds per connection while we are busy
constexpr int kLingerMs = 200;
constexpr int kKeepaliveIdleS = 15, kKeepaliveIntervalS = 5, kKeepaliveProbes = 3;
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
                   QueryTable* table, QueryChannel* channel, const Leases* leases, std::function<void()> wake_scheduler)
    : region_(*region),
      table_(*table),
      channel_(*channel),
      wake_scheduler_(std::move(wake_scheduler)),
      context_(server.io_threads),
      router_(context_, zmq::socket_type::router),
      arena_(region->arena().size()),
      clients_(limits, table),
      copies_(static_cast<uint32_t>(server.intake_threads), table, region->arena(), [this] { waker_.Wake(); }),
      replies_(limits, &router_, region, table, &arena_, &clients_, leases),
      ingress_(limits, std::move(services), region, table, &arena_, &clients_, &replies_, leases, &copies_),
      frames_(limits.max_frames) {}

FrontEnd::~FrontEnd() {
  guard_.reset();
  router_.close();
  doorman_.reset();
  context_.close();  // returns every frame that is still out, so table and arena may go afterwards
}

Result<std::unique_ptr<FrontEnd>> FrontEnd::Create(const ServerConfig& server, const LimitsConfig& limits,
                                                   ServiceSetPtr services, const std::string& ipc_path, Region* region,
                                                   QueryTable* table, QueryChannel* channel, const Leases* leases,
                                                   std::function<void()> wake_scheduler) {
  std::unique_ptr<FrontEnd> front_end(
      new FrontEnd(server, limits, std::move(services), region, table, channel, leases, std::move(wake_scheduler)));
  zmq::socket_t& router = front_end->router_;
  router.set(zmq::sockopt::router_mandatory, true);  // a reply to a vanished client is an error that we count
  router.set(zmq::sockopt::linger, kLingerMs);
  router.set(zmq::sockopt::rcvhwm, kReceiveHighWater);
  router.set(zmq::sockopt::sndhwm, 0);  // bounded by our own count per client, which can tell the client why
  // What is somewhat over a limit comes in and is refused with a reply, since cutting the connection off takes the
  // client's other queries with it; what is far over it must not take the memory.
  const uint64_t ceiling_bytes = 2 * limits.max_message_bytes + protocol::kMaxHeaderBytes;
  router.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(ceiling_bytes));
  // A client whose machine vanished must not keep its place, nor its routing id, for ever.
  router.set(zmq::sockopt::tcp_keepalive, 1);
  router.set(zmq::sockopt::tcp_keepalive_idle, kKeepaliveIdleS);
  router.set(zmq::sockopt::tcp_keepalive_intvl, kKeepaliveIntervalS);
  router.set(zmq::sockopt::tcp_keepalive_cnt, kKeepaliveProbes);
  front_end->guard_ = std::make_unique<ConnectionGuard>(
      &front_end->context_, &router,
      ConnectionGuard::Limits{ceiling_bytes, 4 * limits.max_message_bytes + kMemorySlackBytes, limits.max_clients,
                              ceiling_bytes});
  front_end->doorman_ = std::make_unique<Doorman>(&front_end->context_, &router, front_end->guard_.get());
  for (const std::string& endpoint : server.listen) ABACUS_RETURN_IF_ERROR(front_end->Bind(endpoint));
  if (server.ipc) ABACUS_RETURN_IF_ERROR(front_end->Bind("ipc://" + ipc_path));
  return front_end;
}

Status FrontEnd::Bind(const std::string& endpoint) {
  if (endpoint.starts_with("ipc://") && IpcPathInUse(endpoint.substr(6))) {
    return {StatusCode::kUnavailable, "cannot listen on " + endpoint + ": another program answers there"};
  }
  const Result<std::string> address = BindAddress(endpoint);
  if (!address) return {address.error().code(), "cannot listen on " + address.error().message()};
  try {
    router_.set(zmq::sockopt::ipv6, address->find('[') != std::string::npos);  // tcp://[::1]:5570
    router_.bind(*address);
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
    work += TakeCopied();
    work += ReceiveSome();
    Submit();
    const uint64_t now_ns = MonotonicNs();
    doorman_->LetIn(now_ns);
    CheckConnections(now_ns);
    Submit();
    if (work == 0) Sleep(stop);
  }
}

size_t FrontEnd::SendFinished() {
  std::array<uint32_t, kReceiveBatch> slots;
  const size_t count = channel_.done.pop(slots.data(), slots.size());
  if (count == 0) return 0;
  guard_->ReadEvents();
  for (size_t i = 0; i < count; ++i) Finish(slots[i]);
  return count;
}

void FrontEnd::Finish(uint32_t slot) {
  const Query& query = table_[slot];
  const Peer& peer = CheckGone(slot);
  const OutputPlace& place = replies_.place(slot);
  if (place.region != nullptr && query.status == StatusCode::kOk && !peer.gone) {
    std::unique_ptr<TensorCopy> copy = copies_.Fresh();
    copy->slot = slot;
    copy->place = place;
    OutputOffsetsAt(LayoutOf(query.service->config.spec, query.rows, query.sequence), 0, &copy->bytes);
    if (!copies_.Run(&copy)) return;
    copies_.Recycle(std::move(copy));
  }
  replies_.SendResult(slot);
}

size_t FrontEnd::TakeCopied() {
  if (!copies_.any_done()) return 0;
  guard_->ReadEvents();
  return copies_.TakeDone([this](const TensorCopy& copy) {
    if (!copy.outputs()) {
      TakeCopiedInputs(copy);
      return;
    }
    CheckGone(copy.slot);
    replies_.SendResult(copy.slot);
  });
}

void FrontEnd::TakeCopiedInputs(const TensorCopy& copy) {
  Query& query = table_[copy.slot];
  if (copy.rejection) {
    CheckGone(copy.slot);
    replies_.RefuseAccepted(copy.slot, *copy.rejection);
  } else if (closed_.load(std::memory_order_acquire)) {
    CheckGone(copy.slot);
    query.status = StatusCode::kShuttingDown;
    query.message = "the controller is shutting down";
    replies_.SendResult(copy.slot);
  } else {
    submitted_.push_back(copy.slot);
    if (query.cancel_sent) submitted_.push_back(copy.slot | QueryChannel::kCancelBit);
    Submit();  // before the pool counts it as dealt with
  }
}

// A routing id goes over to another connection only after the end of the first was signalled and the socket then
// received what that one had sent. Nothing is received between ReadEvents and the replies that are sent after it, so
// whoever has not ended by now is still the one that its routing id leads to.
Peer& FrontEnd::CheckGone(uint32_t slot) {
  Peer& peer = *table_[slot].peer;
  peer.gone = guard_->Ended(peer.number, peer.fd);
  return peer;
}

size_t FrontEnd::ReceiveSome() {
  size_t received = 0;
  while (received < kReceiveBatch && ReceiveOne()) ++received;
  return received;
}

void FrontEnd::Submit() {
  if (submitted_.empty()) return;
  channel_.submitted.push(submitted_.data(), submitted_.size());  // has room for all that there can be
  submitted_.clear();
  wake_scheduler_();
}

bool FrontEnd::ReceiveOne() {
  zmq::message_t identity;
  if (!router_.recv(identity, zmq::recv_flags::dontwait)) return false;
  const Message message = ReceiveFrames(identity.more());
  if (!message.frames.empty()) Take(identity, message);
  for (size_t i = 0; i < message.frames.size(); ++i) frames_[i].rebuild();
  return true;
}

void FrontEnd::Take(const zmq::message_t& identity, const Message& message) {
  const uint64_t number = Doorman::NumberOf(frames_[0]);
  if (number == 0) {  // never let in: sharing a peer with another such connection would mix up their replies
    BumpOwned(region_.header().rejected_messages);
    return;
  }
  Peer* peer = clients_.PeerOf(number, identity.to_string_view());
  if (peer->fd < 0) peer->fd = zmq_msg_get(frames_[0].handle(), ZMQ_SRCFD);
  const bool named = identity.size() != kOwnIdBytes || identity.to_string_view()[0] != '\0';
  guard_->Delivered(peer->fd, named);
  // Nothing more for one that does not read its replies, or that has gone.
  if (clients_.CutOff(*peer) || guard_->Ended(peer->number, peer->fd)) {
    BumpOwned(region_.header().rejected_messages);
  } else if (const auto told = ingress_.Handle(peer, message)) {
    submitted_.push_back(*told);
  }
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
  CancelVanished();
  if (now_ns < next_sweep_ns_) return;
  next_sweep_ns_ = now_ns + kClientSweepNs;
  clients_.Sweep();
}

void FrontEnd::CancelVanished() {
  guard_->ReadEvents();
  if (guard_->ends_read() == ends_seen_) return;
  ends_seen_ = guard_->ends_read();
  clients_.ForQueriesOf([this](const Peer& peer) { return guard_->Ended(peer.number, peer.fd); },
                        [this](uint32_t slot) {
                          if (const auto told = ingress_.Cancel(slot)) submitted_.push_back(*told);
                        });
}

void FrontEnd::Sleep(const std::atomic<bool>& stop) {
  waker_.PrepareSleep();
  if (channel_.done.read_available() == 0 && !copies_.any_done() && published_.empty() &&
      !stop.load(std::memory_order_acquire)) {
    std::array<zmq::pollitem_t, 4> items = {{{router_.handle(), 0, ZMQ_POLLIN, 0},
                                             {nullptr, waker_.fd(), ZMQ_POLLIN, 0},
                                             {doorman_->door().handle(), 0, ZMQ_POLLIN, 0},
                                             {guard_->monitor().handle(), 0, ZMQ_POLLIN, 0}}};
    // A signal may end it early; the next iteration looks at everything anyway. While connections exist the guard is
    // due every few milliseconds, but only bytes without messages need it, and those do not end the poll.
    zmq_poll(reinterpret_cast<zmq_pollitem_t*>(items.data()), static_cast<int>(items.size()),
             doorman_->waiting()  ? 1
             : guard_->watching() ? 10
                                  : kSleepMs);
  }
  waker_.FinishSleep();
}

}  // namespace abacus
