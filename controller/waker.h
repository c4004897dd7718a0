// Waker: wakes a thread that sleeps in poll() on an eventfd, at the price of one locked exchange while it does not
// sleep.
//
// Sleeper: PrepareSleep(), look at the queues once more, poll() on fd(), FinishSleep(). Waker: push, then Wake().
// SYNC POINT: both sides exchange sleeping_. Whichever exchange comes second reads what the first one wrote and so sees
// what was done before it: either the sleeper's last look finds the push, or the waker finds the sleeper.
#ifndef ABACUS_CONTROLLER_WAKER_H_
#define ABACUS_CONTROLLER_WAKER_H_

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
    sleeping_.store(false, std::memory_order_relaxed);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof(count));
  }

 private:
  const int fd_;
  std::atomic<bool> sleeping_{false};
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WAKER_H_
