#include "controller/front_end.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>

#include "controller/tensor_copy.h"
#include "shm/clock.h"
#include "shm/log.h"

namespace abacus {
namespace {

constexpr size_t kReceiveBatch = 64;  // messages per iteration, so replies are never far away
constexpr uint64_t kSleepMs = 100;
constexpr uint64_t kClientSweepNs = kNsPerSecond;  // idle clients are forgotten this often
constexpr int kReceiveHighWater = 256;             // messages that ZeroMQ holds per connection while we are busy
constexpr int kLingerMs = 200;
constexpr uint64_t kMemorySlackBytes = 512ull << 20;

void ReleaseFrame(void* /*data*/, void* hint) {
  auto* query = static_cast<Query*>(hint);
  query->table->FrameReleased(query->slot);
}

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

std::vector<std::string> DimNames(const TensorSpec& tensor) {
  std::vector<std::string> names;
  for (const int64_t dim : tensor.dims.dims()) {
    names.push_back(dim == kBatchDim ? "batch" : dim == kSequenceDim ? "sequence" : std::to_string(dim));
  }
  return names;
}

protocol::TensorDescription Describe(const TensorSpec& tensor) {
  protocol::TensorDescription out;
  out.name = tensor.name;
  out.dtype = tensor.dtype;
  out.dims = DimNames(tensor);
  out.has_range = tensor.range.has_value();
  if (tensor.range) {
    out.low = tensor.range->low;
    out.high = tensor.range->high;
  }
  return out;
}

std::string HealthState(const WorkerBlock& block) {
  switch (static_cast<WorkerState>(block.state.load(std::memory_order_acquire))) {
    case WorkerState::kServing:
      return "ready";
    case WorkerState::kFailed:
      return "failed";
    case WorkerState::kExited:
      return "restarting";
    default:
      return block.incarnation > 1 ? "restarting" : "starting";
  }
}

}  // namespace

FrontEnd::FrontEnd(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
                   std::function<void()> wake_scheduler)
    : config_(config),
      region_(region),
      table_(*table),
      channel_(*channel),
      wake_scheduler_(std::move(wake_scheduler)),
      arena_(region->arena().size()),
      context_(config.server.io_threads),
      router_(context_, zmq::socket_type::router),
      frames_(config.limits.max_frames) {
  for (uint32_t i = 0; i < config.services.size(); ++i) {
    services_[config.services[i].name] = i;
    layouts_.emplace_back();
    for (size_t b = 0; b < config.services[i].spec.bucket_count(); ++b) {
      layouts_.back().push_back(LayoutOf(config.services[i].spec, b));
    }
  }
}

FrontEnd::~FrontEnd() {
  guard_.reset();
  router_.close();
  context_.close();  // returns every frame that is still out, so table and arena may go afterwards
}

Result<std::unique_ptr<FrontEnd>> FrontEnd::Create(const Config& config, const std::string& ipc_path, Region* region,
                                                   QueryTable* table, QueryChannel* channel,
                                                   std::function<void()> wake_scheduler) {
  std::unique_ptr<FrontEnd> front_end(new FrontEnd(config, region, table, channel, std::move(wake_scheduler)));
  zmq::socket_t& router = front_end->router_;
  router.set(zmq::sockopt::router_mandatory, true);  // a reply to a vanished client is an error that we count
  router.set(zmq::sockopt::linger, kLingerMs);
  router.set(zmq::sockopt::rcvhwm, kReceiveHighWater);
  router.set(zmq::sockopt::sndhwm, 0);  // bounded by our own count per client, which can tell the client why
  router.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(config.limits.max_frame_bytes));
  front_end->guard_ = std::make_unique<ConnectionGuard>(
      &front_end->context_, &router,
      ConnectionGuard::Limits{config.limits.max_message_bytes, 4 * config.limits.max_message_bytes + kMemorySlackBytes,
                              config.limits.max_clients});
  for (const std::string& endpoint : config.server.listen) ABACUS_RETURN_IF_ERROR(front_end->Bind(endpoint));
  if (config.server.ipc) ABACUS_RETURN_IF_ERROR(front_end->Bind("ipc://" + ipc_path));
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

void FrontEnd::Run(const std::atomic<bool>& stop) {
  while (!stop.load(std::memory_order_acquire)) {
    ReclaimReleased();
    size_t work = SendFinished();
    work += ReceiveSome();
    const uint64_t now_ns = MonotonicNs();
    if (const uint32_t closed = guard_->Check(now_ns)) {
      BumpOwned(region_->header().closed_connections, uint64_t{closed});
    }
    if (now_ns >= next_sweep_ns_) {
      next_sweep_ns_ = now_ns + kClientSweepNs;
      std::erase_if(clients_, [](const auto& entry) { return entry.second->held == 0; });
    }
    if (work == 0) Sleep();
  }
}

void FrontEnd::Sleep() {
  waker_.PrepareSleep();
  if (channel_.done.read_available() == 0) {
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
  size_t frames = 0;
  uint64_t bytes = 0;
  bool too_many = false;
  bool more = identity.more();
  zmq::message_t surplus;
  while (more) {  // ZeroMQ delivers whole messages, so this never waits
    too_many |= frames == frames_.size();
    zmq::message_t& frame = too_many ? surplus : frames_[frames];
    if (!router_.recv(frame, zmq::recv_flags::none)) break;
    bytes += frame.size();
    more = frame.more();
    if (!too_many) ++frames;
  }
  Client* client = ClientOf(identity);
  if (client->fd < 0 && frames > 0) client->fd = zmq_msg_get(frames_[0].handle(), ZMQ_SRCFD);
  guard_->Delivered(client->fd);
  if (client->held >= 2 * config_.limits.max_client_queries) {
    BumpOwned(region_->header().rejected_messages);  // it does not read its replies; nothing more for it
  } else {
    HandleMessage(client, frames, too_many, bytes);
  }
  for (size_t i = 0; i < frames; ++i) frames_[i].rebuild();
  return true;
}

Client* FrontEnd::ClientOf(const zmq::message_t& identity) {
  const std::string key(static_cast<const char*>(identity.data()), identity.size());
  auto& client = clients_[key];
  if (!client) {
    client = std::make_unique<Client>(&client_memory_);
    client->identity = key;
  }
  return client.get();
}

void FrontEnd::HandleMessage(Client* client, size_t frames, bool too_many, uint64_t bytes) {
  if (frames == 0) {
    Refuse(client, 0, StatusCode::kInvalidArgument, "header", "the message has no frames");
    return;
  }
  const std::span header(static_cast<const std::byte*>(frames_[0].data()), frames_[0].size());
  if (auto decoded = protocol::DecodeRequest(header, &request_); !decoded) {
    const protocol::DecodeError& error = decoded.error();
    Refuse(client, error.has_id ? error.id : 0, StatusCode::kInvalidArgument, error.field, error.message);
    return;
  }
  if (too_many) {
    Refuse(client, request_.id, StatusCode::kInvalidArgument, "inputs",
           "the message has more than " + std::to_string(config_.limits.max_frames) + " frames (max_frames)");
    return;
  }
  if (bytes > config_.limits.max_message_bytes) {
    Refuse(client, request_.id, StatusCode::kInvalidArgument, "inputs",
           "the message has " + std::to_string(bytes) + " bytes, more than max_message_mib allows");
    return;
  }
  switch (request_.type) {
    case protocol::RequestType::kInfer:
      HandleInfer(client, frames - 1);
      break;
    case protocol::RequestType::kModels:
      ReplyModels(client, request_.id);
      break;
    case protocol::RequestType::kHealth:
      ReplyHealth(client, request_.id);
      break;
  }
}

void FrontEnd::HandleInfer(Client* client, size_t payload_frames) {
  const uint64_t id = request_.id;
  if (draining_.load(std::memory_order_acquire)) {
    Refuse(client, id, StatusCode::kShuttingDown, "", "the controller is shutting down");
    return;
  }
  const auto found = services_.find(request_.model);
  if (found == services_.end()) {
    Refuse(client, id, StatusCode::kUnknownModel, "model",
           "no service '" + request_.model + "'; ask for the list of models");
    return;
  }
  const ServiceConfig& service = config_.services[found->second];
  payloads_.clear();
  for (size_t i = 1; i <= payload_frames; ++i) {
    payloads_.emplace_back(static_cast<const std::byte*>(frames_[i].data()), frames_[i].size());
  }
  if (auto admit = Admit(service.spec, request_, payloads_, &admitted_); !admit) {
    Refuse(client, id, admit.error().code, admit.error().field, admit.error().message);
    return;
  }
  if (client->ids.contains(id)) {
    Refuse(client, id, StatusCode::kInvalidArgument, "id",
           "query id " + std::to_string(id) + " is in flight already; its own reply will still come");
    return;
  }
  const uint64_t block_bytes = request_.synthetic ? 0 : layouts_[found->second][admitted_.bucket].total_bytes;
  const LimitsConfig& limits = config_.limits;
  if (client->queries >= limits.max_client_queries || client->bytes + block_bytes > limits.max_client_bytes) {
    Refuse(client, id, StatusCode::kOverloaded, "",
           "this client has " + std::to_string(client->queries) + " queries and " + std::to_string(client->bytes) +
               " bytes in flight or unread (max_client_queries, max_client_mib)");
    return;
  }
  if (accepted_ >= limits.max_queries) {
    Refuse(client, id, StatusCode::kOverloaded, "",
           "the controller holds " + std::to_string(accepted_) + " queries (max_queries); retry later");
    return;
  }
  TensorArena::Block block;
  if (block_bytes > 0) {
    const auto allocated = arena_ready_.load(std::memory_order_acquire) ? arena_.Allocate(block_bytes) : std::nullopt;
    if (!allocated) {
      Refuse(client, id, StatusCode::kOverloaded, "", "the tensor arena is full (arena_mib); retry later");
      return;
    }
    block = *allocated;
  }
  const auto slot = Hold(client);
  if (!slot) {
    if (block.bytes > 0) arena_.Free(block);
    BumpOwned(region_->header().rejected_messages);  // refusals fill the table: nobody reads them
    return;
  }
  Query& query = table_[*slot];
  query.id = id;
  query.service = found->second;
  query.bucket = admitted_.bucket;
  query.batch = admitted_.batch;
  query.sequence = admitted_.sequence;
  query.synthetic = request_.synthetic;
  query.refusal = false;
  query.block = block;
  query.arrival_ns = MonotonicNs();
  query.deadline_ns = query.arrival_ns + (request_.qos_us != 0 ? request_.qos_us * kNsPerUs : service.qos_ns);
  query.timing = {};
  ++client->queries;
  ++accepted_;
  client->bytes += block.bytes;
  client->ids.insert(id);
  region_->header().arena_used_bytes.store(arena_.used_bytes(), std::memory_order_relaxed);
  if (!query.synthetic) CopyInputs(admitted_, service.spec, query);
  submitted_.push_back(*slot);
}

void FrontEnd::CopyInputs(const Admitted& admitted, const ModelSpec& spec, const Query& query) {
  const BlockLayout& layout = layouts_[query.service][query.bucket];
  const Bucket bucket = spec.bucket(query.bucket);
  std::byte* const base = region_->arena().data() + query.block.offset_bytes;
  for (size_t s = 0; s < spec.inputs.size(); ++s) {
    const TensorSpec& input = spec.inputs[s];
    // Rows that only fill the bucket must be valid too: an index out of range kills every client of the GPU.
    const int64_t pad = input.range ? std::clamp(input.pad, input.range->low, input.range->high) : input.pad;
    CopyPadded(base + layout.inputs[s].offset_bytes, ShapeAt(input, bucket.batch, bucket.sequence),
               payloads_[admitted.input_order[s]].data(), ShapeAt(input, query.batch, query.sequence), input.dtype,
               pad);
  }
}

void FrontEnd::CropOutputs(const ModelSpec& spec, const Query& query) {
  const BlockLayout& layout = layouts_[query.service][query.bucket];
  const Bucket bucket = spec.bucket(query.bucket);
  std::byte* const base = region_->arena().data() + query.block.offset_bytes;
  reply_.outputs.resize(spec.outputs.size());
  for (size_t s = 0; s < spec.outputs.size(); ++s) {
    const TensorSpec& output = spec.outputs[s];
    protocol::TensorHeader& header = reply_.outputs[s];
    header.name = output.name;
    header.dtype = output.dtype;
    header.shape = ShapeAt(output, query.batch, query.sequence);
    CropInPlace(base + layout.outputs[s].offset_bytes, ShapeAt(output, bucket.batch, bucket.sequence), header.shape,
                output.dtype);
  }
}

std::optional<uint32_t> FrontEnd::Hold(Client* client) {
  const auto slot = table_.Acquire();
  if (!slot) return std::nullopt;
  table_[*slot].client = client;
  ++client->held;
  in_use_.store(table_.in_use(), std::memory_order_release);
  return slot;
}

void FrontEnd::Refuse(Client* client, uint64_t id, StatusCode code, const std::string& field,
                      const std::string& message) {
  BumpOwned(region_->header().rejected_messages);
  reply_ = {};
  reply_.id = id;
  reply_.status = code;
  reply_.field = field;
  reply_.message = message;
  reply_.model = code == StatusCode::kUnknownModel ? "" : request_.model;
  if (const auto slot = Hold(client)) {
    table_[*slot].refusal = true;
    Send(*slot, 0);
  }
}

void FrontEnd::ReplyModels(Client* client, uint64_t id) {
  reply_ = {};
  reply_.id = id;
  for (const ServiceConfig& service : config_.services) {
    protocol::ModelDescription model;
    model.name = service.name;
    for (const TensorSpec& input : service.spec.inputs) model.inputs.push_back(Describe(input));
    for (const TensorSpec& output : service.spec.outputs) model.outputs.push_back(Describe(output));
    model.batch_sizes = service.spec.batch_sizes;
    model.sequence_lengths = service.spec.sequence_lengths;
    model.qos_us = service.qos_ns / kNsPerUs;
    reply_.models.push_back(std::move(model));
  }
  if (const auto slot = Hold(client)) {
    table_[*slot].refusal = true;
    Send(*slot, 0);
  }
}

void FrontEnd::ReplyHealth(Client* client, uint64_t id) {
  reply_ = {};
  reply_.id = id;
  reply_.ready = !draining_.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < config_.services.size(); ++i) {
    const WorkerBlock& block = region_->worker(i);
    protocol::ServiceHealth health;
    health.name = config_.services[i].name;
    health.state = HealthState(block);
    health.worker_pid = block.pid.load(std::memory_order_relaxed);
    health.queued = block.stats.queued.load(std::memory_order_relaxed);
    health.restarts = block.stats.restarts.load(std::memory_order_relaxed);
    if (health.state != "ready") health.message = LoadText(block.error);
    reply_.ready &= health.state == "ready";
    reply_.services.push_back(std::move(health));
  }
  if (const auto slot = Hold(client)) {
    table_[*slot].refusal = true;
    Send(*slot, 0);
  }
}

size_t FrontEnd::SendFinished() {
  std::array<uint32_t, kReceiveBatch> slots;
  const size_t count = channel_.done.pop(slots.data(), slots.size());
  for (size_t i = 0; i < count; ++i) SendFinishedQuery(slots[i]);
  return count;
}

void FrontEnd::SendFinishedQuery(uint32_t slot) {
  Query& query = table_[slot];
  const ServiceConfig& service = config_.services[query.service];
  reply_.id = query.id;
  reply_.status = query.status;
  reply_.message = query.message;
  reply_.field.clear();
  reply_.model = service.name;
  reply_.models.clear();
  reply_.services.clear();
  reply_.ready = false;
  reply_.timing = query.timing;
  reply_.timing.total_us = (MonotonicNs() - query.arrival_ns) / kNsPerUs;
  const bool with_outputs = query.status == StatusCode::kOk && !query.synthetic;
  if (with_outputs) {
    CropOutputs(service.spec, query);
  } else {
    reply_.outputs.clear();
  }
  query.client->ids.erase(query.id);
  Send(slot, reply_.outputs.size());
}

void FrontEnd::Send(uint32_t slot, size_t outputs) {
  Query& query = table_[slot];
  protocol::EncodeReply(reply_, &query.header);
  // One count per frame with a callback, plus one for this function, so the slot cannot come back half-way through.
  query.frames_out.store(static_cast<uint32_t>(outputs) + 2, std::memory_order_relaxed);
  zmq::message_t identity(query.client->identity.data(), query.client->identity.size());
  zmq::message_t header(query.header.data(), query.header.size(), ReleaseFrame, &query);
  bool delivered = SendFrame(&identity, true) && SendFrame(&header, outputs > 0);
  const BlockLayout* layout = outputs > 0 ? &layouts_[query.service][query.bucket] : nullptr;
  std::byte* const base = region_->arena().data() + query.block.offset_bytes;
  for (size_t i = 0; i < outputs; ++i) {
    const protocol::TensorHeader& tensor = reply_.outputs[i];
    zmq::message_t frame(base + layout->outputs[i].offset_bytes,
                         tensor.shape.Elements().value_or(0) * DTypeBytes(tensor.dtype), ReleaseFrame, &query);
    delivered = delivered && SendFrame(&frame, i + 1 < outputs);  // an unsent frame is released by its destructor
  }
  if (!delivered) BumpOwned(region_->header().dropped_replies);
  table_.FrameReleased(slot);
}

bool FrontEnd::SendFrame(zmq::message_t* frame, bool more) {
  try {
    return router_.send(*frame, more ? zmq::send_flags::sndmore | zmq::send_flags::dontwait : zmq::send_flags::dontwait)
        .has_value();
  } catch (const zmq::error_t&) {
    return false;  // EHOSTUNREACH: the client has vanished
  }
}

void FrontEnd::ReclaimReleased() {
  bool any = false;
  table_.TakeReleased([&](uint32_t slot) {
    Query& query = table_[slot];
    Client* client = query.client;
    --client->held;
    if (!query.refusal) {
      --client->queries;
      --accepted_;
      client->bytes -= query.block.bytes;
      if (query.block.bytes > 0) arena_.Free(query.block);
      query.block = {};
    }
    query.client = nullptr;
    table_.Return(slot);
    any = true;
  });
  if (any) {
    region_->header().arena_used_bytes.store(arena_.used_bytes(), std::memory_order_relaxed);
    in_use_.store(table_.in_use(), std::memory_order_release);
  }
}

}  // namespace abacus
