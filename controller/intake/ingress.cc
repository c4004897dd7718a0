#include "controller/intake/ingress.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

// The same for a number that nobody has and for one that was given back.
constexpr char kNoRegion[] = "no region of this number is leased";
constexpr uint64_t kMaxTargetUs = 3'600'000'000;  // an hour, as in the configuration; longer targets count as this

tl::unexpected<Rejection> Reject(StatusCode code, std::string field, std::string message) {
  return tl::unexpected<Rejection>({code, std::move(field), std::move(message)});
}

std::span<const std::byte> BytesOf(const zmq::message_t& frame) {
  return {static_cast<const std::byte*>(frame.data()), frame.size()};
}

// Index of the input whose tensor is in this frame of tensors: those in leased memory have none.
size_t InputOfFrame(const protocol::Request& request, size_t frame) {
  size_t input = 0;
  for (size_t frames = 0; input < request.inputs.size(); ++input) {
    if (request.inputs[input].has_frame() && frames++ == frame) return input;
  }
  return frame;  // none announces it
}

}  // namespace

Ingress::Ingress(const LimitsConfig& limits, ServiceSetPtr services, Region* region, QueryTable* table,
                 TensorArena* arena, Clients* clients, Replies* replies, const Leases* leases, CopyPool* copies)
    : limits_(limits),
      region_(*region),
      table_(*table),
      arena_(*arena),
      clients_(*clients),
      replies_(*replies),
      leases_(*leases),
      copies_(*copies),
      services_(std::move(services)),
      copy_(copies->Fresh()) {}

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
    case protocol::RequestType::kCancel: {
      const auto slot = Clients::QueryOf(*peer, id);
      return slot ? Cancel(*slot) : std::nullopt;
    }
  }
  const auto slot = TakeIn(peer, message.frames.subspan(1));
  copy_->sources.clear();  // of what was turned down
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
  // Frames of a cancel are ignored: a refusal would be a second answer to the query that it names.
  if (request_.type == protocol::RequestType::kCancel) return {};
  if (message.surplus) {
    return Reject(kWrong, "inputs",
                  "the message has more than " + std::to_string(limits_.max_frames) + " frames (max_frames)");
  }
  for (size_t i = 1; i < message.frames.size(); ++i) {
    if (message.frames[i].size() <= limits_.max_frame_bytes) continue;
    return Reject(kWrong, "inputs[" + std::to_string(InputOfFrame(request_, i - 1)) + "]",
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

std::optional<uint32_t> Ingress::Cancel(uint32_t slot) {
  if (std::exchange(table_[slot].cancel_sent, true) || copies_.Holds(slot)) return std::nullopt;
  return slot | QueryChannel::kCancelBit;
}

tl::expected<void, Rejection> Ingress::FindInputs(std::span<zmq::message_t> tensors) {
  std::vector<InputSource>& sources = copy_->sources;
  size_t frame = 0;
  for (size_t i = 0; i < request_.inputs.size(); ++i) {
    const protocol::TensorHeader& tensor = request_.inputs[i];
    if (!tensor.offset) {
      if (frame == tensors.size()) break;  // admission finds that there are too few
      sources.emplace_back().frame = std::move(tensors[frame++]);
      continue;
    }
    const std::string path = "inputs[" + std::to_string(i) + "]";
    LeasePtr region = leases_.Find(tensor.region);
    if (region == nullptr) return Reject(StatusCode::kInvalidArgument, path + ".region", kNoRegion);
    const auto elements = tensor.shape.Elements();
    uint64_t bytes = 0;
    if (!elements || __builtin_mul_overflow(*elements, DTypeBytes(tensor.dtype), &bytes) ||
        !region->Holds(*tensor.offset, bytes)) {
      return Reject(StatusCode::kInvalidArgument, path + ".offset",
                    tensor.shape.ToString() + " of " + std::string(DTypeName(tensor.dtype)) + " at offset " +
                        std::to_string(*tensor.offset) + " does not lie inside its region");
    }
    InputSource& source = sources.emplace_back();
    source.leased = region->bytes().subspan(*tensor.offset, bytes);
    source.region = std::move(region);
  }
  for (; frame < tensors.size(); ++frame) sources.emplace_back().frame = std::move(tensors[frame]);  // too many
  payloads_.clear();
  for (const InputSource& source : sources) payloads_.push_back(source.bytes());
  return {};
}

tl::expected<OutputPlace, Rejection> Ingress::FindOutputs(const TensorLayout& layout) const {
  OutputPlace place;
  if (request_.outputs_region == 0 || request_.synthetic) return place;
  constexpr auto kWrong = StatusCode::kInvalidArgument;
  place.region = leases_.Find(request_.outputs_region);
  if (place.region == nullptr) return Reject(kWrong, "outputs_region", kNoRegion);
  if (!place.region->Holds(request_.outputs_offset, request_.outputs_bytes)) {
    return Reject(kWrong, "outputs_offset",
                  std::to_string(request_.outputs_bytes) + " bytes at offset " +
                      std::to_string(request_.outputs_offset) + " do not lie inside their region");
  }
  place.offset_bytes = request_.outputs_offset;
  uint64_t needed_bytes = 0;
  OutputOffsetsAt(layout, place.offset_bytes, &needed_bytes);
  if (needed_bytes > request_.outputs_bytes) {
    return Reject(kWrong, "outputs_bytes",
                  "the outputs take " + std::to_string(needed_bytes) + " bytes, each at a multiple of " +
                      std::to_string(protocol::kOutputAlignBytes) + ", not " + std::to_string(request_.outputs_bytes));
  }
  return place;
}

tl::expected<std::optional<uint32_t>, Rejection> Ingress::TakeIn(Peer* peer, std::span<zmq::message_t> tensors) {
  if (draining_.load(std::memory_order_acquire)) {
    return Reject(StatusCode::kShuttingDown, "", "the controller is shutting down");
  }
  ServicePtr service = services_->Find(request_.model);
  if (!service) {
    return Reject(StatusCode::kUnknownModel, "model",
                  "no service '" + request_.model + "'; ask for the list of models");
  }
  if (auto found = FindInputs(tensors); !found) return tl::unexpected(std::move(found.error()));
  const Admitted& admitted = copy_->admitted;
  if (auto admit = Admit(service->config.spec, request_, payloads_, &copy_->admitted); !admit) {
    return tl::unexpected(std::move(admit.error()));
  }
  TensorLayout layout;  // a synthetic query has no tensors
  if (!request_.synthetic) layout = LayoutOf(service->config.spec, admitted.batch, admitted.sequence);
  auto place = FindOutputs(layout);
  if (!place) return tl::unexpected(std::move(place.error()));
  if (const uint64_t most_bytes = std::min(limits_.max_client_bytes, arena_.max_block_bytes());
      layout.total_bytes > most_bytes) {
    return Reject(StatusCode::kInvalidArgument, "inputs",
                  "the tensors of the query and its answer take " + std::to_string(layout.total_bytes) +
                      " bytes; this server holds at most " + std::to_string(most_bytes) +
                      " for one query (max_client_mib, arena_mib)");
  }
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
  query.rows = static_cast<uint32_t>(admitted.batch);
  query.sequence = static_cast<uint32_t>(admitted.sequence);
  query.synthetic = request_.synthetic;
  query.block = *block;
  query.timing = {};
  query.cancel_sent = false;
  clients_.Accepted(*slot);
  replies_.SetPlace(*slot, std::move(*place));
  region_.header().arena_used_bytes.store(arena_.used_bytes(), std::memory_order_relaxed);
  if (query.synthetic) return *slot;
  copy_->slot = *slot;
  copy_->bytes = 0;
  for (const std::span<const std::byte> payload : payloads_) copy_->bytes += payload.size();
  if (!copies_.Run(&copy_)) {
    copy_ = copies_.Fresh();
    return std::nullopt;
  }
  if (!copy_->rejection) return *slot;
  replies_.RefuseAccepted(*slot, *std::exchange(copy_->rejection, std::nullopt));
  return std::nullopt;
}

tl::expected<TensorArena::Block, Rejection> Ingress::Allocate(uint64_t bytes) {
  if (bytes == 0) return TensorArena::Block{};
  const auto block = arena_ready_.load(std::memory_order_acquire) ? arena_.Allocate(bytes) : std::nullopt;
  if (!block) return Reject(StatusCode::kOverloaded, "", "the tensor arena is full (arena_mib); retry later");
  return *block;
}

}  // namespace abacus
