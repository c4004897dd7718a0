// JobQueue: the waiting jobs of one service, in arrival order, as one contiguous span for the policies.
//
// Taking the front is O(1) amortised; taking one from the middle moves the pointers behind it (a few hundred at most,
// bounded by queue_limit). Ownership: borrows the jobs. Thread rule: the scheduler's thread.
#ifndef ABACUS_CONTROLLER_JOB_QUEUE_H_
#define ABACUS_CONTROLLER_JOB_QUEUE_H_

#include <algorithm>
#include <span>
#include <vector>

#include "controller/job.h"

namespace abacus {

class JobQueue {
 public:
  void PushBack(Job* job) { jobs_.push_back(job); }
  // For a job that ran in part: it is older than everything that waits.
  void PushFront(Job* job) {
    if (head_ > 0) {
      jobs_[--head_] = job;
    } else {
      jobs_.insert(jobs_.begin(), job);
    }
  }
  // `job` must be in the queue.
  void Remove(Job* job) {
    const auto first = jobs_.begin() + static_cast<std::ptrdiff_t>(head_);
    const auto it = std::find(first, jobs_.end(), job);
    if (it == first) {
      ++head_;
      if (head_ >= kCompactAt && head_ * 2 >= jobs_.size()) {
        jobs_.erase(jobs_.begin(), jobs_.begin() + static_cast<std::ptrdiff_t>(head_));
        head_ = 0;
      }
    } else {
      jobs_.erase(it);
    }
  }
  std::span<Job* const> waiting() const { return std::span(jobs_).subspan(head_); }
  size_t size() const { return jobs_.size() - head_; }

 private:
  static constexpr size_t kCompactAt = 64;
  std::vector<Job*> jobs_;
  size_t head_ = 0;  // jobs_[0, head_) are gone already
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_JOB_QUEUE_H_
