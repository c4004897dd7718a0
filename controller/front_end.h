// FrontEnd: the only owner of client sockets. Receives, decodes and admits queries, copies their tensors once into the
// arena, hands them to the scheduler, and sends replies straight out of the arena.
//
// What one client can make the controller hold is bounded: queries and bytes per client (LimitsConfig), counted from
// acceptance until ZeroMQ has handed the reply to the kernel. A refusal costs the same slot as a query until it was
// read, so a client that floods and never reads is cut off (its messages are dropped) once it holds
// 2 * max_client_queries unread replies; the others do not notice.
//
// Thread rule: everything on the front end's own thread, except Wake, SetArenaReady, SetDraining and InUse.
#ifndef ABACUS_CONTROLLER_FRONT_END_H_
#define ABACUS_CONTROLLER_FRONT_END_H_

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>
#include <zmq.hpp>

#include "client/protocol.h"
#include "controller/admission.h"
#include "controller/config.h"
#include "controller/connection_guard.h"
#include "controller/query.h"
#include "controller/waker.h"
#include "shm/region.h"
#include "shm/tensor_arena.h"

namespace abacus {

// One connection, by ZeroMQ routing id.
struct Client {
  explicit Client(std::pmr::memory_resource* memory) : ids(memory) {}
  std::string identity;
  int fd = -1;                            // of the connection; only to attribute bytes to it
  uint32_t held = 0;                      // slots: queries and refusals that have not left yet
  uint32_t queries = 0;                   // accepted ones among them
  uint64_t bytes = 0;                     // arena bytes of its queries
  std::pmr::unordered_set<uint64_t> ids;  // of its queries without a reply
};

class FrontEnd {
 public:
  // Binds every endpoint. kUnavailable names the endpoint that is taken or not valid.
  static Result<std::unique_ptr<FrontEnd>> Create(const Config& config, const std::string& ipc_path, Region* region,
                                                  QueryTable* table, QueryChannel* channel,
                                                  std::function<void()> wake_scheduler);
  ~FrontEnd();

  void Run(const std::atomic<bool>& stop);
  void Wake() { waker_.Wake(); }
  // The arena's memory is there; until then queries with tensors get OVERLOADED.
  void SetArenaReady() { arena_ready_.store(true, std::memory_order_release); }
  // From now on new queries get SHUTTING_DOWN.
  void SetDraining() { draining_.store(true, std::memory_order_release); }
  // Queries and refusals whose reply has not left yet.
  uint32_t InUse() const { return in_use_.load(std::memory_order_acquire); }
  // The addresses as bound (a port of 0 resolved).
  const std::vector<std::string>& endpoints() const { return endpoints_; }

 private:
  FrontEnd(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
           std::function<void()> wake_scheduler);
  Status Bind(const std::string& endpoint);

  size_t ReceiveSome();
  bool ReceiveOne();
  size_t SendFinished();
  void ReclaimReleased();
  void Sleep();

  void HandleMessage(Client* client, size_t frames, bool too_many, uint64_t bytes);
  void HandleInfer(Client* client, size_t payload_frames);
  void Refuse(Client* client, uint64_t id, StatusCode code, const std::string& field, const std::string& message);
  void ReplyModels(Client* client, uint64_t id);
  void ReplyHealth(Client* client, uint64_t id);
  void SendFinishedQuery(uint32_t slot);
  void Send(uint32_t slot, size_t outputs);
  bool SendFrame(zmq::message_t* frame, bool more);
  std::optional<uint32_t> Hold(Client* client);
  Client* ClientOf(const zmq::message_t& identity);
  void CopyInputs(const Admitted& admitted, const ModelSpec& spec, const Query& query);
  void CropOutputs(const ModelSpec& spec, const Query& query);

  const Config& config_;
  Region* const region_;
  QueryTable& table_;
  QueryChannel& channel_;
  const std::function<void()> wake_scheduler_;
  TensorArena arena_;
  std::unordered_map<std::string, uint32_t> services_;  // name -> index
  std::vector<std::vector<BlockLayout>> layouts_;       // [service][bucket]
  Waker waker_;

  zmq::context_t context_;
  zmq::socket_t router_;
  std::unique_ptr<ConnectionGuard> guard_;
  std::vector<std::string> endpoints_;
  std::pmr::unsynchronized_pool_resource client_memory_;              // nodes of Client::ids
  std::unordered_map<std::string, std::unique_ptr<Client>> clients_;  // by identity
  uint64_t next_sweep_ns_ = 0;
  std::vector<uint32_t> submitted_;  // admitted in this iteration, handed over together
  uint32_t accepted_ = 0;            // queries whose reply has not left
  std::atomic<bool> arena_ready_{false};
  std::atomic<bool> draining_{false};
  std::atomic<uint32_t> in_use_{0};

  // Scratch of one message, kept to save allocations.
  std::vector<zmq::message_t> frames_;
  std::vector<std::span<const std::byte>> payloads_;
  protocol::Request request_;
  protocol::Reply reply_;
  Admitted admitted_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_FRONT_END_H_
