#include "controller/intake/ingress.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr uint64_t kMaxTargetUs = 3'600'000'000;  // an hour, as in the configuration; longer targets count as this

tl::unexpected<Rejection> Reject(StatusCode code, std::string field, std::string message) {
  return tl::unexpected<Rejection>({code, std::move(field), std::move(message)});
}

std::span<const std::byte> BytesOf(const zmq::message_t& frame) {
  return {static_cast<const std::byte*>(frame.data()), frame.size()};
}

}  // namespace

Ingress::Ingress(const LimitsConfig& limits, ServiceSetPtr services, Region* region, QueryTable* table,
                 TensorArena* arena, Clients* clients, Replies* replies)
    : limits_(limits),
      region_(*region),
      table_(*table),
      arena_(*arena),
      clients_(*clients),
      replies_(*replies),
      services_(std::move(services)) {}

std::optional<uint32_t> Ingress::Handle(Peer* peer, const Message& message) {
  uint64_t id = 0;
  if (const auto decoded = Decode(message, &id); !decoded) {
    replies_.Refuse(peer, id, request_.model, decoded.error());
    return std::nullopt;
  }
  switch (request_.type) {
    case protocol::RequestType::kInfer:
      break;
    case protocol::RequestType::kModels:
      replies_.SendModels(peer, id, *services_);
      return std::nullopt;
    case protocol::RequestType::kHealth:
      replies_.SendHealth(peer, id, *services_, draining_.load(std::memory_order_acquire));
      return std::nullopt;
  }
  const auto slot = TakeIn(peer, message.frames.subspan(1));
  if (slot) return *slot;
  // A name that nothing goes by is not repeated.
  replies_.Refuse(peer, id, slot.error().code == StatusCode::kUnknownModel ? "" : request_.model, slot.error());
  return std::nullopt;
}

tl::expected<void, Rejection> Ingress::Decode(const Message& message, uint64_t* id) {
  constexpr auto kWrong = StatusCode::kInvalidArgument;
  if (message.frames.empty()) {
    request_.model.clear();  // of the message before
    return Reject(kWrong, "header", "the message has no frames");
  }
  if (auto decoded = protocol::DecodeRequest(BytesOf(message.frames[0]), &request_); !decoded) {
    protocol::DecodeError& error = decoded.error();
    if (error.has_id) *id = error.id;
    return Reject(kWrong, std::move(error.field), std::move(error.message));
  }
  *id = request_.id;
  if (message.surplus) {
    return Reject(kWrong, "inputs",
                  "the message has more than " + std::to_string(limits_.max_frames) + " frames (max_frames)");
  }
  for (size_t i = 1; i < message.frames.size(); ++i) {
    if (message.frames[i].size() <= limits_.max_frame_bytes) continue;
    return Reject(kWrong, "inputs[" + std::to_string(i - 1) + "]",
                  "the tensor has " + std::to_string(message.frames[i].size()) + " bytes; this server takes at most " +
                      std::to_string(limits_.max_frame_bytes) + " (max_frame_mib)");
  }
  if (message.bytes > limits_.max_message_bytes) {
    return Reject(kWrong, "inputs",
                  "the message has " + std::to_string(message.bytes) + " bytes; this server takes at most " +
                      std::to_string(limits_.max_message_bytes) + " (max_message_mib)");
  }
  return {};
}

tl::expected<uint32_t, Rejection> Ingress::TakeIn(Peer* peer, std::span<const zmq::message_t> tensors) {
  if (draining_.load(std::memory_order_acquire)) {
    return Reject(StatusCode::kShuttingDown, "", "the controller is shutting down");
  }
  ServicePtr service = services_->Find(request_.model);
  if (!service) {
    return Reject(StatusCode::kUnknownModel, "model",
                  "no service '" + request_.model + "'; ask for the list of models");
  }
  payloads_.clear();
  for (const zmq::message_t& tensor : tensors) payloads_.push_back(BytesOf(tensor));
  if (auto admit = Admit(service->config.spec, request_, payloads_, &admitted_); !admit) {
    return tl::unexpected(std::move(admit.error()));
  }
  TensorLayout layout;  // a synthetic query has no tensors
  if (!request_.synthetic) layout = LayoutOf(service->config.spec, admitted_.batch, admitted_.sequence);
  if (auto quota = clients_.CheckQuota(*peer, request_.id, layout.total_bytes); !quota) {
    return tl::unexpected(std::move(quota.error()));
  }
  auto block = Allocate(layout.total_bytes);
  if (!block) return tl::unexpected(std::move(block.error()));
  const auto slot = clients_.Hold(peer);
  if (!slot) {
    if (block->bytes > 0) arena_.Free(*block);
    return Reject(StatusCode::kOverloaded, "", "too many replies are unread; retry later");
  }
  Query& query = table_[*slot];
  query.id = request_.id;
  query.arrival_ns = MonotonicNs();
  const uint64_t target_ns = std::min(request_.qos_us, kMaxTargetUs) * kNsPerUs;
  query.deadline_ns = query.arrival_ns + (target_ns != 0 ? target_ns : service->config.qos_ns);
  query.service = std::move(service);
  query.rows = static_cast<uint32_t>(admitted_.batch);
  query.sequence = static_cast<uint32_t>(admitted_.sequence);
  query.synthetic = request_.synthetic;
  query.block = *block;
  query.timing = {};
  clients_.Accepted(*slot);
  region_.header().arena_used_bytes.store(arena_.used_bytes(), std::memory_order_relaxed);
  CopyInputs(layout, *block);
  return *slot;
}

tl::expected<TensorArena::Block, Rejection> Ingress::Allocate(uint64_t bytes) {
  if (bytes == 0) return TensorArena::Block{};
  const auto block = arena_ready_.load(std::memory_order_acquire) ? arena_.Allocate(bytes) : std::nullopt;
  if (!block) return Reject(StatusCode::kOverloaded, "", "the tensor arena is full (arena_mib); retry later");
  return *block;
}

void Ingress::CopyInputs(const TensorLayout& layout, const TensorArena::Block& block) {
  std::byte* const base = region_.arena().data() + block.offset_bytes;
  for (size_t i = 0; i < layout.inputs.size(); ++i) {
    // Admission has checked that the frame has exactly these bytes.
    std::memcpy(base + layout.inputs[i].offset_bytes, payloads_[admitted_.input_order[i]].data(),
                layout.inputs[i].bytes);
  }
}

}  // namespace abacus
