// The background thread of a Channel: sends what was submitted, matches replies, and ends queries whose time has
// passed.
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "base/duration.h"
#include "client/channel.h"

namespace abacus {
namespace {

constexpr size_t kMaxFrames = 1 + protocol::kMaxTensors;
constexpr size_t kMaxRepliesPerTurn = 256;          // then sending and time limits get their turn
constexpr size_t kMaxRememberedTimeouts = 100'000;  // ids kept to recognise late replies
constexpr size_t kCopiedBytes = 1024;               // up to here a copy is cheaper than sharing

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

}  // namespace

void Channel::Run() {
  while (!stopping_.load()) {
    const bool to_send = !waiting_.empty() || !waiting_cancels_.empty();
    std::array<zmq_pollitem_t, 2> items = {{
        {socket_.handle(), 0, static_cast<short>(to_send ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN), 0},
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
  std::vector<uint64_t> cancels;
  {
    const std::lock_guard lock(mutex_);
    taken.swap(submitted_);
    cancels.swap(cancels_);
  }
  for (Query& query : taken) {
    const uint64_t id = query.id;
    waiting_.push_back(id);
    deadlines_.emplace(query.deadline, id);
    queries_.emplace(id, std::move(query));
  }
  for (const uint64_t id : cancels) {
    if (id != kAllQueries) {
      CancelQuery(id);
      continue;
    }
    std::vector<uint64_t> all;
    for (const auto& entry : queries_) all.push_back(entry.first);
    for (const uint64_t each : all) CancelQuery(each);
  }
}

void Channel::CancelQuery(uint64_t id) {
  const auto found = queries_.find(id);
  if (found == queries_.end() || !found->second.inference || found->second.cancelled) return;
  if (found->second.header.empty()) {
    found->second.cancelled = true;
    waiting_cancels_.push_back(id);
    return;
  }
  Answer answer;
  answer.header.status = StatusCode::kCancelled;
  answer.header.message = "cancelled before it was sent";
  Finish(id, std::move(answer));
}

void Channel::SendWaiting() {
  while (!waiting_cancels_.empty()) {
    const uint64_t id = waiting_cancels_.front();
    if (queries_.contains(id) && !TrySendCancel(id)) return;
    waiting_cancels_.pop_front();
  }
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

bool Channel::TrySendCancel(uint64_t id) {
  protocol::Request request;
  request.type = protocol::RequestType::kCancel;
  request.id = id;
  std::string header;
  protocol::EncodeRequest(request, &header);
  return socket_.send(zmq::message_t(header.data(), header.size()), zmq::send_flags::dontwait).has_value();
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
  }
  const auto query = queries_.find(header.id);
  const bool awaited = query != queries_.end();
  if (decoded) wrong = TakeOutputs(std::move(frames), awaited ? &query->second.outputs : nullptr, &answer);
  if (wrong.empty() && header.max_frame_bytes != 0) max_frame_bytes_.store(header.max_frame_bytes);
  if (wrong.empty() && header.max_message_bytes != 0) max_message_bytes_.store(header.max_message_bytes);
  if (!wrong.empty()) {
    counts_.malformed.fetch_add(1);
    if (awaited) Finish(header.id, Error(StatusCode::kInternal, "malformed reply from " + address_ + ": " + wrong));
    return;
  }
  if (awaited) {
    // What an older server says to a cancellation, whose query still gets its reply.
    const bool refused = header.status == StatusCode::kInvalidArgument && header.field == "type";
    if (query->second.cancelled && refused) return;
    counts_.replies.fetch_add(1);
    return Finish(header.id, std::move(answer));
  }
  const auto late = timed_out_.find(header.id);
  if (late == timed_out_.end()) {
    counts_.duplicates.fetch_add(1);
    return;
  }
  counts_.late.fetch_add(1);
  if (const auto region = late->second.region.lock()) region->Release(late->second.offset);
  timed_out_.erase(late);
}

std::string Channel::TakeOutputs(std::vector<zmq::message_t> frames, const LeasedBlock* place, Answer* answer) {
  const auto& outputs = answer->header.outputs;
  const auto framed = static_cast<size_t>(
      std::count_if(outputs.begin(), outputs.end(), [](const auto& output) { return output.has_frame(); }));
  if (frames.size() != 1 + framed) {
    return std::to_string(framed) + " outputs announced but " + std::to_string(frames.size() - 1) + " frames received";
  }
  if (place == nullptr) return "";  // nobody waits for it
  size_t next_frame = 1;
  uint64_t free_from = place->offset;
  for (const protocol::TensorHeader& output : outputs) {
    const std::string who = "output '" + output.name + "' with shape " + output.shape.ToString();
    const auto size = TensorBytes(output.dtype, output.shape);
    Tensor tensor{output.name, output.dtype, output.shape, {}, nullptr};
    if (output.has_frame()) {
      auto frame = std::make_shared<const zmq::message_t>(std::move(frames[next_frame++]));
      if (frame->size() != size) return who + " came as " + std::to_string(frame->size()) + " bytes";
      tensor.bytes = BytesOf(*frame);
      tensor.owner = std::move(frame);
    } else {
      if (place->region == nullptr) return who + " came without a frame";
      const uint64_t offset = *output.offset;
      // In order and disjoint, so that none covers another.
      const uint64_t end = place->offset + place->bytes;
      if (offset < free_from || (offset - place->offset) % protocol::kOutputAlignBytes != 0 || offset > end || !size ||
          *size > end - offset) {
        return who + " came at offset " + std::to_string(offset) + " of the region";
      }
      free_from = offset + *size;
      tensor.bytes = place->region->bytes().subspan(offset, *size);
      tensor.owner = tensor.region = place->region;
    }
    answer->outputs.push_back(std::move(tensor));
  }
  return "";
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
        timed_out_.emplace(id, LateBlock{query.outputs.region, query.outputs.offset});
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
  auto node = queries_.extract(id);
  Query& query = node.mapped();
  const bool sent = query.header.empty();
  for (const LeasedBlock& input : query.leased) input.region->EndRead(input.offset, input.bytes);
  // Without a reply the server may still write: the block stays taken, until a late reply or the end of its lease.
  if (query.outputs.region != nullptr && (answer || !sent)) query.outputs.region->Release(query.outputs.offset);
  outstanding_.fetch_sub(1);
  query.done(std::move(answer));
}

}  // namespace abacus
