// Query and QueryTable: every query that the controller holds, from its arrival until its reply has left the socket.
//
// A query lives in one slot of a fixed table; threads pass the slot's index. Who may touch a slot:
//
//   front end  --Submit-->  scheduler  --Done-->  front end  --socket-->  I/O thread  --released-->  front end
//
// Before Submit a thread of the copy pool may have it (copy_pool.h), which gives it back to the front end.
//
// Each arrow is a release that the other side acquires, so the fields need no locks. For the way through ZeroMQ the
// table has its own (frames_out and released_) and does not count on what libzmq's queues order. The slot is given back
// only when ZeroMQ has handed every frame of the reply to the kernel (or dropped it): that bounds what one client can
// make us hold.
//
// Ownership: the table owns the slots, the front end owns the free ones; a query owns its block and its part of the
// service.
#ifndef ABACUS_CONTROLLER_INTAKE_QUERY_TABLE_H_
#define ABACUS_CONTROLLER_INTAKE_QUERY_TABLE_H_

#include <atomic>
#include <boost/lockfree/spsc_queue.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/protocol.h"
#include "controller/config/service_set.h"
#include "controller/intake/tensor_arena.h"

namespace abacus {

struct Peer;  // clients.h

class QueryTable;

struct Query {
  // Set once by the table: what a ZeroMQ free callback, which gets one pointer, needs to find its way back.
  QueryTable* table = nullptr;
  uint32_t slot = 0;

  // Set at ingress, constant afterwards.
  uint64_t id = 0;  // the client's
  Peer* peer = nullptr;
  ServicePtr service;     // as admitted by it; null: nothing was accepted, the slot only carries an answer out
  uint32_t rows = 0;      // of the batch; more than the largest bucket has run in parts, in several jobs
  uint32_t sequence = 0;  // length; 0: the model has no sequence dimension
  bool synthetic = false;
  TensorArena::Block block;  // its tensors at its own shape (models/tensor_layout.h); bytes == 0: none
  uint64_t arrival_ns = 0;
  uint64_t deadline_ns = 0;

  // Set by the scheduler before Done.
  StatusCode status = StatusCode::kOk;
  std::string message;
  protocol::Timing timing;

  // The front end's own: the scheduler was told that its client cancelled it.
  bool cancel_sent = false;

  // The scheduler's own.
  bool live = false;          // accepted, and not answered yet
  uint64_t order = 0;         // WaitingQuery::order of its parts
  uint32_t parts_left = 0;    // that wait or are in a job; the last one to end answers the query
  uint32_t parts_unsent = 0;  // that were not sent to the end of the model
  uint64_t began_ns = 0;      // when the round of its first part began; 0: none has

  // The reply on its way out.
  std::string header;
  std::atomic<uint32_t> frames_out{0};  // frames of it that ZeroMQ still holds
  uint32_t next_released = 0;           // link of QueryTable's list
};

class QueryTable {
 public:
  explicit QueryTable(uint32_t capacity) : slots_(std::make_unique<Query[]>(capacity)), capacity_(capacity) {
    free_.reserve(capacity);
    for (uint32_t i = capacity; i-- > 0;) {
      slots_[i].table = this;
      slots_[i].slot = i;
      free_.push_back(i);
    }
  }

  Query& operator[](uint32_t slot) { return slots_[slot]; }
  uint32_t capacity() const { return capacity_; }
  uint32_t in_use() const { return capacity_ - static_cast<uint32_t>(free_.size()); }

  // Front end only.
  std::optional<uint32_t> Acquire() {
    if (free_.empty()) return std::nullopt;
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void Return(uint32_t slot) { free_.push_back(slot); }

  // Front end only, before the first frame of the slot's reply goes to ZeroMQ: FrameReleased will be called this often.
  void LendFrames(uint32_t slot, uint32_t frames) {
    slots_[slot].frames_out.store(frames, std::memory_order_release);  // SYNC POINT: pairs with FrameReleased's acquire
  }
  // Any thread: ZeroMQ is done with one frame of this slot's reply. The last one puts the slot on the list.
  void FrameReleased(uint32_t slot) {
    if (slots_[slot].frames_out.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    uint32_t head = released_.load(std::memory_order_relaxed);
    do {
      slots_[slot].next_released = head;
    } while (!released_.compare_exchange_weak(head, slot, std::memory_order_release, std::memory_order_relaxed));
  }
  // Front end only: calls handle(slot) for every slot whose reply has left. The list is taken as a whole, so one
  // exchange serves all, and no slot can be pushed again while somebody still follows its link.
  template <class Handle>
  void TakeReleased(const Handle& handle) {
    uint32_t slot = released_.exchange(kNone, std::memory_order_acquire);  // SYNC POINT: pairs with the push's release
    while (slot != kNone) {
      const uint32_t next = slots_[slot].next_released;
      handle(slot);
      slot = next;
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  std::unique_ptr<Query[]> slots_;
  const uint32_t capacity_;
  std::vector<uint32_t> free_;
  std::atomic<uint32_t> released_{kNone};  // head of a list; pushed to by ZeroMQ's I/O threads and the front end
};

// Front end <-> scheduler. Both directions can hold all that there can be, so a push never fails.
//
// A slot with kCancelBit says that the client of its query cancelled it; the front end says it at most once for a
// query, after the query itself and before it gives the slot back. So one that comes too late is in front of the slot's
// next query and finds none that is live. A slot can be in the queue three times: a late cancellation of its query
// before, its query, and the cancellation of that one.
struct QueryChannel {
  static constexpr uint32_t kCancelBit = 1u << 31;
  explicit QueryChannel(uint32_t capacity) : submitted(size_t{3} * capacity), done(capacity) {}
  boost::lockfree::spsc_queue<uint32_t> submitted;  // front end -> scheduler
  boost::lockfree::spsc_queue<uint32_t> done;       // scheduler -> front end
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_QUERY_TABLE_H_
