// Waker: wakes a thread that sleeps in poll() on an eventfd, at the price of one locked exchange while it does not
// sleep.
//
// Sleeper: PrepareSleep(), look at the queues once more, poll() on fd(), FinishSleep(). Waker: push, then Wake().
// SYNC POINT: sleeping_ is only ever exchanged, so every exchange reads what the one before it wrote and sees what was
// done before all earlier ones: either the sleeper's last look finds the push, or the waker finds the sleeper. (A plain
// store in FinishSleep would break that chain: a Wake just before it could stay unseen by the next last look.)
//
// Thread rule: one sleeper; Wake from any thread.
#ifndef ABACUS_BASE_WAKER_H_
#define ABACUS_BASE_WAKER_H_

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace abacus {

class Waker {
 public:
  Waker() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~Waker() { close(fd_); }
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  int fd() const { return fd_; }
  void Wake() {
    if (sleeping_.exchange(false, std::memory_order_acq_rel)) {
      const uint64_t one = 1;
      // A full eventfd is readable already, so a failed write changes nothing.
      [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof(one));
    }
  }
  void PrepareSleep() { sleeping_.exchange(true, std::memory_order_acq_rel); }
  void FinishSleep() {
    sleeping_.exchange(false, std::memory_order_acq_rel);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof(count));
  }

 private:
  const int fd_;
  std::atomic<bool> sleeping_{false};
};

}  // namespace abacus

#endif  // ABACUS_BASE_WAKER_H_
