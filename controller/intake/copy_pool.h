// CopyPool: threads that copy what is large, so that the front end's thread has time for messages.
//
//   front end --Give--> threads --TakeDone--> front end
//
// A query whose inputs are being copied is accepted, but not with the scheduler yet; one whose outputs are, has been
// finished by it. Both come back to the front end, which alone talks to scheduler and clients. What is small is copied
// by the caller at once, since handing it over would take longer.
//
// Ownership: table and arena outlive it; a TensorCopy belongs to whoever holds it. Thread rule: the front end's thread,
// except held. Errors: none; what is wrong with a copy's values stands in it.
#ifndef ABACUS_CONTROLLER_INTAKE_COPY_POOL_H_
#define ABACUS_CONTROLLER_INTAKE_COPY_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "base/mailbox.h"
#include "controller/intake/copies.h"
#include "controller/intake/query_table.h"

namespace abacus {

class CopyPool {
 public:
  static constexpr uint64_t kSmallBytes = 16 * 1024;

  // `threads` 1: no thread, everything is copied by the caller. `wake_front_end` is called when something is done.
  CopyPool(uint32_t threads, QueryTable* table, std::span<std::byte> arena, std::function<void()> wake_front_end);
  // What no thread has begun is dropped.
  ~CopyPool();

  // An empty TensorCopy, with what an earlier one reserved.
  std::unique_ptr<TensorCopy> Fresh();
  // Runs the copy: true: it is done, and still *copy's; false: a thread has it now.
  bool Run(std::unique_ptr<TensorCopy>* copy);
  // Calls handle(copy) for every one that a thread has done.
  template <class Handle>
  size_t TakeDone(const Handle& handle) {
    std::vector<std::unique_ptr<TensorCopy>> done = done_.Take();
    for (std::unique_ptr<TensorCopy>& copy : done) {
      held_slots_[copy->slot] = false;
      handle(*copy);
      Recycle(std::move(copy));
    }
    held_.fetch_sub(static_cast<uint32_t>(done.size()), std::memory_order_release);
    return done.size();
  }
  void Recycle(std::unique_ptr<TensorCopy> copy);

  bool any_done() const { return !done_.empty(); }
  // The inputs of this slot's query are with a thread, or a TakeDone is still to come for them.
  bool Holds(uint32_t slot) const { return held_slots_[slot]; }
  // Copies that are with the threads, or not dealt with by TakeDone yet. Any thread.
  uint32_t held() const { return held_.load(std::memory_order_acquire); }

 private:
  void Work(const std::stop_token& stop);

  QueryTable& table_;
  const std::span<std::byte> arena_;
  const std::function<void()> wake_front_end_;
  std::vector<std::unique_ptr<TensorCopy>> spare_;
  std::vector<bool> held_slots_;
  std::atomic<uint32_t> held_{0};

  std::mutex mutex_;
  std::condition_variable_any waiting_changed_;
  std::deque<std::unique_ptr<TensorCopy>> waiting_;  // protected by mutex_
  Mailbox<std::unique_ptr<TensorCopy>> done_;
  std::vector<std::jthread> threads_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_COPY_POOL_H_
