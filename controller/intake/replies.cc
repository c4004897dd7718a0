#include "controller/intake/replies.h"

#include "base/clock.h"
#include "controller/intake/service_report.h"
#include "models/held_model.h"

namespace abacus {
namespace {

constexpr size_t kReplyDigestDigits = 16;  // of the model's 64: enough to tell versions apart

// The free callback of every frame: on an I/O thread once the frame is out, or on ours when it could not be sent.
void ReleaseFrame([[maybe_unused]] void* data, void* hint) {
  auto* query = static_cast<Query*>(hint);
#ifdef __SANITIZE_THREAD__
  // ThreadSanitizer does not see libzmq read the frame (tests/tsan.supp). This read stands for it, so that a write of
  // ours to a frame that is still out is reported as the race that it is.
  query->frames_out.load(std::memory_order_acquire);
  [[maybe_unused]] const std::byte read = *static_cast<const volatile std::byte*>(data);
#endif
  query->table->FrameReleased(query->slot);
}

}  // namespace

void Replies::Begin(uint64_t id) {
  reply_ = {};
  reply_.id = id;
}

void Replies::StateLimits() {
  reply_.max_frame_bytes = limits_.max_frame_bytes;
  reply_.max_message_bytes = limits_.max_message_bytes;
  reply_.lease = leases_.path();
}

void Replies::Refuse(Peer* peer, uint64_t id, const std::string& model, const Rejection& why) {
  Begin(id);
  FillRefusal(why, model);
  SendAnswer(peer);
}

void Replies::RefuseAccepted(uint32_t slot, const Rejection& why) {
  const Query& query = table_[slot];
  Begin(query.id);
  FillRefusal(why, query.service->config.name);
  places_[slot] = {};
  clients_.Answered(slot);
  Send(slot, {});
}

void Replies::FillRefusal(const Rejection& why, const std::string& model) {
  BumpOwned(region_.header().rejected_messages);
  reply_.status = why.code;
  reply_.field = why.field;
  reply_.message = why.message;
  reply_.model = model;
}

void Replies::SendModels(Peer* peer, uint64_t id, const ServiceSet& services) {
  Begin(id);
  ReportModels(services, &reply_);
  StateLimits();
  SendAnswer(peer);
}

void Replies::SendHealth(Peer* peer, uint64_t id, const ServiceSet& services, bool draining) {
  Begin(id);
  ReportHealth(services, region_, &reply_);
  reply_.ready &= !draining;
  StateLimits();
  SendAnswer(peer);
}

void Replies::SendAnswer(Peer* peer) {
  if (const auto slot = clients_.Hold(peer)) Send(*slot, {});
}

void Replies::SendResult(uint32_t slot) {
  const Query& query = table_[slot];
  reply_.id = query.id;
  reply_.status = query.status;
  reply_.message = query.message;
  reply_.field.clear();
  reply_.model = query.service->config.name;
  reply_.models.clear();
  reply_.services.clear();
  reply_.ready = false;
  reply_.max_frame_bytes = reply_.max_message_bytes = 0;
  reply_.lease.clear();
  reply_.digest.clear();
  reply_.timing = query.timing;
  reply_.timing.total_us = (MonotonicNs() - query.arrival_ns) / kNsPerUs;
  clients_.Answered(slot);
  if (query.status == StatusCode::kOk && query.service->held != nullptr) {
    reply_.digest.assign(query.service->held->digest(), 0, kReplyDigestDigits);
  }
  const OutputPlace place = std::exchange(places_[slot], {});
  reply_.outputs.clear();
  TensorLayout layout;
  if (query.status == StatusCode::kOk && !query.synthetic) {
    layout = LayoutOf(query.service->config.spec, query.rows, query.sequence);
    ListOutputs(query, layout, place);
    if (place.region != nullptr) layout.outputs.clear();  // no frames
  }
  Send(slot, layout);
}

void Replies::ListOutputs(const Query& query, const TensorLayout& layout, const OutputPlace& place) {
  const ModelSpec& spec = query.service->config.spec;
  const OutputOffsets offsets = OutputOffsetsAt(layout, place.offset_bytes);
  reply_.outputs.resize(spec.outputs.size());
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    reply_.outputs[i].name = spec.outputs[i].name;
    reply_.outputs[i].dtype = spec.outputs[i].dtype;
    reply_.outputs[i].shape = ShapeAt(spec.outputs[i], query.rows, query.sequence);
    reply_.outputs[i].offset = place.region != nullptr ? std::optional(offsets[i]) : std::nullopt;
  }
}

void Replies::Send(uint32_t slot, const TensorLayout& layout) {
  Query& query = table_[slot];
  const size_t outputs = layout.outputs.size();
  protocol::EncodeReply(reply_, &query.header);
  // One count per frame with a callback, plus one for this function, so the slot cannot come back half-way through.
  table_.LendFrames(slot, static_cast<uint32_t>(outputs) + 2);
  zmq::message_t identity(query.peer->identity.data(), query.peer->identity.size());
  zmq::message_t header(query.header.data(), query.header.size(), ReleaseFrame, &query);
  bool delivered = !query.peer->gone && SendFrame(&identity, true) && SendFrame(&header, outputs > 0);
  std::byte* const block = region_.arena().data() + query.block.offset_bytes;
  for (size_t i = 0; i < outputs; ++i) {
    const TensorExtent& extent = layout.outputs[i];
    zmq::message_t frame(block + extent.offset_bytes, extent.bytes, ReleaseFrame, &query);
    delivered = delivered && SendFrame(&frame, i + 1 < outputs);  // an unsent frame is released by its destructor
  }
  if (!delivered) BumpOwned(region_.header().dropped_replies);
  table_.FrameReleased(slot);
}

bool Replies::SendFrame(zmq::message_t* frame, bool more) {
  try {
    return router_.send(*frame, more ? zmq::send_flags::sndmore | zmq::send_flags::dontwait : zmq::send_flags::dontwait)
        .has_value();
  } catch (const zmq::error_t&) {
    return false;  // EHOSTUNREACH: the client has vanished
  }
}

void Replies::Reclaim() {
  bool any = false;
  table_.TakeReleased([&](uint32_t slot) {
    if (table_[slot].block.bytes > 0) arena_.Free(table_[slot].block);
    clients_.Release(slot);
    any = true;
  });
  if (any) region_.header().arena_used_bytes.store(arena_.used_bytes(), std::memory_order_relaxed);
}

}  // namespace abacus
