#include "client/client.h"

#include <algorithm>
#include <string>
#include <utility>

#include "client/channel.h"
#include "client/leased_region.h"

namespace abacus {
namespace {

InferReply MakeReply(Answer answer) {
  InferReply reply;
  reply.status = Status(answer.header.status, std::move(answer.header.message));
  reply.field = std::move(answer.header.field);
  reply.model = std::move(answer.header.model);
  reply.outputs = std::move(answer.outputs);
  reply.timing = answer.header.timing;
  reply.digest = std::move(answer.header.digest);
  return reply;
}

}  // namespace

Client::Client(std::string address, const ClientOptions& options, std::unique_ptr<Channel> channel)
    : address_(std::move(address)), options_(options), channel_(std::move(channel)) {}

Client::~Client() {
  // A forked child has a copy of the channel in whatever state its thread was, and no such thread: nothing to end.
  if (channel_->forked()) static_cast<void>(channel_.release());
}

Result<std::unique_ptr<Client>> Client::Connect(const std::string& address, const ClientOptions& options) {
  auto channel = Channel::Open(address, options);
  if (!channel) return Error(channel.error());
  std::unique_ptr<Client> client(new Client(address, options, std::move(*channel)));
  const auto health = client->RoundTrip(protocol::RequestType::kHealth, options.connect_timeout);
  if (!health) {
    return Error(StatusCode::kUnavailable, health.error().message() + "; is an Abacus controller listening there?");
  }
  return client;
}

uint64_t Client::SubmitAsync(InferRequest request, Callback done) {
  const auto refuse = [&done](std::string why) {
    done(Error(StatusCode::kInvalidArgument, std::move(why)));
    return uint64_t{0};
  };
  protocol::Request header;
  header.model = std::move(request.model);
  header.qos_us = request.qos_us;
  if (request.synthetic) {
    header.synthetic = true;
    header.batch = request.synthetic->batch;
    header.sequence = request.synthetic->sequence;
  }
  if (header.qos_us > kLongestQosUs) {
    return refuse("qos_us is " + std::to_string(header.qos_us) + "; a latency target is from 1us to 1h (" +
                  std::to_string(kLongestQosUs) + "us)");
  }
  if (header.model.empty()) return refuse("a query names its model");
  if (header.synthetic && !request.inputs.empty()) {
    return refuse("a synthetic query has no inputs");
  }
  if (header.synthetic && request.outputs.region != nullptr) {
    return refuse("a synthetic query has no outputs, and so no block for them");
  }
  return channel_->Send(std::move(header), std::move(request.inputs), std::move(request.outputs),
                        options_.receive_timeout, [done = std::move(done)](Result<Answer> answer) {
                          if (!answer) return done(Error(std::move(answer.error())));
                          done(MakeReply(std::move(*answer)));
                        });
}

PendingReply Client::Submit(InferRequest request) {
  auto promise = std::make_shared<std::promise<Result<InferReply>>>();
  auto future = promise->get_future();
  const uint64_t id =
      SubmitAsync(std::move(request), [promise](Result<InferReply> reply) { promise->set_value(std::move(reply)); });
  return {std::move(future), id};
}

Result<InferReply> Client::Infer(InferRequest request) {
  ABACUS_RETURN_IF_ERROR(CheckMayBlock());
  return Submit(std::move(request)).get();
}

void Client::Cancel(uint64_t id) {
  if (id != 0) channel_->Cancel(id);
}

void Client::CancelAll() { channel_->CancelAll(); }

Result<LeasedMemory> Client::Lease(size_t bytes) {
  if (bytes == 0) return Error(StatusCode::kInvalidArgument, "a lease has at least 1 byte");
  const auto health = Health();
  if (!health) return Error(health.error());
  const auto path = LeaseSocketPath(address_, health->lease);
  if (!path) return Error(path.error());
  auto region = LeasedRegion::Open(*path, bytes, channel_->number(), options_.receive_timeout);
  if (!region) return Error(region.error());
  return LeasedMemory(std::move(*region));
}

Result<std::vector<protocol::ModelDescription>> Client::Models() {
  auto reply = RoundTrip(protocol::RequestType::kModels, options_.receive_timeout);
  if (!reply) return Error(std::move(reply.error()));
  if (reply->status != StatusCode::kOk) return Error(reply->status, std::move(reply->message));
  return std::move(reply->models);
}

Result<ServerHealth> Client::Health() {
  auto reply = RoundTrip(protocol::RequestType::kHealth, options_.receive_timeout);
  if (!reply) return Error(std::move(reply.error()));
  if (reply->status != StatusCode::kOk) return Error(reply->status, std::move(reply->message));
  return ServerHealth{reply->ready, std::move(reply->services), reply->max_frame_bytes, reply->max_message_bytes,
                      std::move(reply->lease)};
}

Result<protocol::Reply> Client::RoundTrip(protocol::RequestType type, std::chrono::milliseconds timeout) {
  ABACUS_RETURN_IF_ERROR(CheckMayBlock());
  auto promise = std::make_shared<std::promise<Result<protocol::Reply>>>();
  auto future = promise->get_future();
  protocol::Request request;
  request.type = type;
  channel_->Send(std::move(request), {}, {}, timeout, [promise](Result<Answer> answer) {
    if (!answer) return promise->set_value(Error(std::move(answer.error())));
    promise->set_value(std::move(answer->header));
  });
  return future.get();
}

Status Client::CheckMayBlock() const {
  if (!channel_->OnIoThread()) return Status::Ok();
  return Status(StatusCode::kInvalidArgument, "a blocking call from a callback of the same client would never return");
}

ClientCounters Client::counters() const { return channel_->counters(); }

}  // namespace abacus
