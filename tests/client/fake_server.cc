#include "tests/client/fake_server.h"

#include <chrono>
#include <span>
#include <utility>

namespace abacus {

void FakeServer::Echo(FakeServer& server, const Incoming& query) {
  protocol::Reply reply;
  reply.model = query.header.model;
  reply.outputs = query.header.inputs;
  reply.timing = {10, 20, 30, 1, 0};
  server.Reply(query, std::move(reply), query.frames);
}

FakeServer::FakeServer(Handler handler, const std::string& endpoint) : handler_(std::move(handler)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::sndhwm, 0);  // as the real server: at the default of 1000 a ROUTER drops replies
  socket_.set(zmq::sockopt::ipv6, endpoint.find('[') != std::string::npos);
  socket_.bind(endpoint);
  address_ = socket_.get(zmq::sockopt::last_endpoint);
  thread_ = std::thread([this] { Run(); });
}

FakeServer::~FakeServer() {
  stopping_ = true;
  thread_.join();
}

void FakeServer::WaitForQueries(size_t count) {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [&] { return queries_.size() >= count; });
}

std::vector<FakeServer::Incoming> FakeServer::queries() const {
  const std::lock_guard lock(mutex_);
  return queries_;
}

void FakeServer::WaitForCancels(size_t count) {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [&] { return cancels_.size() >= count; });
}

std::vector<uint64_t> FakeServer::cancels() const {
  const std::lock_guard lock(mutex_);
  return cancels_;
}

void FakeServer::SetLease(std::string path) {
  const std::lock_guard lock(mutex_);
  lease_ = std::move(path);
}

void FakeServer::SetModels(std::vector<protocol::ModelDescription> models) {
  const std::lock_guard lock(mutex_);
  models_ = std::move(models);
}

void FakeServer::Reply(const Incoming& query, protocol::Reply reply, std::vector<std::string> frames) {
  reply.id = query.header.id;
  std::string header;
  protocol::EncodeReply(reply, &header);
  frames.insert(frames.begin(), std::move(header));
  SendRaw(query.client, std::move(frames));
}

void FakeServer::SendRaw(const std::string& client, std::vector<std::string> frames) {
  frames.insert(frames.begin(), client);
  const std::lock_guard lock(mutex_);
  to_send_.push_back(std::move(frames));
}

void FakeServer::Run() {
  while (!stopping_) {
    std::vector<std::vector<std::string>> to_send;
    {
      const std::lock_guard lock(mutex_);
      to_send.swap(to_send_);
    }
    for (const auto& frames : to_send) {
      for (size_t i = 0; i < frames.size(); ++i) {
        const auto flags = i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
        socket_.send(zmq::buffer(frames[i]), flags);
      }
    }
    zmq_pollitem_t item = {socket_.handle(), 0, ZMQ_POLLIN, 0};
    zmq_poll(&item, 1, 1);
    std::vector<std::string> frames;
    for (bool more = true; more;) {
      zmq::message_t frame;
      if (!socket_.recv(frame, zmq::recv_flags::dontwait)) break;
      frames.push_back(frame.to_string());
      more = frame.more();
    }
    if (frames.size() >= 2) Handle({frames[0], {}, {frames.begin() + 2, frames.end()}}, frames[1]);
  }
}

void FakeServer::OnCancel(Handler handler) {
  const std::lock_guard lock(mutex_);
  on_cancel_ = std::move(handler);
}

void FakeServer::Handle(Incoming incoming, const std::string& header) {
  if (!protocol::DecodeRequest(std::as_bytes(std::span(header)), &incoming.header)) return;
  if (incoming.header.type == protocol::RequestType::kInfer) {
    handler_(*this, incoming);
    const std::lock_guard lock(mutex_);
    queries_.push_back(std::move(incoming));
    arrived_.notify_all();
    return;
  }
  if (incoming.header.type == protocol::RequestType::kCancel) {
    std::unique_lock lock(mutex_);
    const Handler on_cancel = on_cancel_;
    lock.unlock();
    on_cancel(*this, incoming);
    lock.lock();
    cancels_.push_back(incoming.header.id);
    arrived_.notify_all();
    return;
  }
  protocol::Reply reply;
  {
    const std::lock_guard lock(mutex_);
    reply.models = models_;
    reply.lease = lease_;
  }
  if (incoming.header.type == protocol::RequestType::kHealth) {
    reply.ready = ready_;
    reply.max_frame_bytes = max_frame_bytes_;
    reply.max_message_bytes = max_message_bytes_;
    for (const auto& model : reply.models) reply.services.push_back({model.name, "ready", 123, 0, 1, ""});
    reply.models.clear();
  }
  Reply(incoming, std::move(reply));
}

}  // namespace abacus
