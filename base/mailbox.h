// Mailbox: what other threads leave for one thread, in order. For rare news; queries take lock-free queues.
//
// Thread rule: Post from any thread, Take from the owner's. Whoever posts also wakes the owner.
#ifndef ABACUS_BASE_MAILBOX_H_
#define ABACUS_BASE_MAILBOX_H_

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

namespace abacus {

template <class T>
class Mailbox {
 public:
  void Post(T item) {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
    has_items_.store(true, std::memory_order_release);
  }
  bool empty() const { return !has_items_.load(std::memory_order_acquire); }
  // Everything posted so far; cheap when there is nothing.
  std::vector<T> Take() {
    if (empty()) return {};
    const std::lock_guard lock(mutex_);
    has_items_.store(false, std::memory_order_relaxed);
    return std::exchange(items_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<T> items_;  // protected by mutex_
  std::atomic<bool> has_items_{false};
};

}  // namespace abacus

#endif  // ABACUS_BASE_MAILBOX_H_
