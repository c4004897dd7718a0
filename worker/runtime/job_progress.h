// JobProgress: how far the job in progress has come, and with it which range may follow.
//
// A worker has one job in progress: the one whose first range was started last. Its ranges come without gaps, from the
// first operator on, all in one bucket. The executor keeps this and refuses what does not fit; the runtimes of real
// models, which checks and tests drive without an executor, ask it, too.
//
// Thread rule: a plain value of one thread.
#ifndef ABACUS_WORKER_RUNTIME_JOB_PROGRESS_H_
#define ABACUS_WORKER_RUNTIME_JOB_PROGRESS_H_

#include <cstdint>

namespace abacus {

class JobProgress {
 public:
  // A job starts at its first operator; the one before is given up.
  void Begin(uint64_t job_id, uint32_t bucket) {
    job_id_ = job_id;
    bucket_ = bucket;
    next_operator_ = 0;
  }
  // A range of the job was started that ends before operator `last`. At `operators`, all that its bucket has, the job
  // is complete and nothing continues it.
  void Advance(uint32_t last, uint32_t operators) { next_operator_ = last == operators ? 0 : last; }
  // Nothing continues the job any more: a range of it failed.
  void End() { next_operator_ = 0; }

  // Whether a range that begins at operator `first` > 0 is the next one of the job in progress.
  bool Continues(uint64_t job_id, uint32_t bucket, uint32_t first) const {
    return first != 0 && first == next_operator_ && IsJob(job_id) && bucket == bucket_;
  }
  // Whether this job is the one that was begun last.
  bool IsJob(uint64_t job_id) const { return job_id == job_id_; }

 private:
  uint64_t job_id_ = 0;
  uint32_t bucket_ = 0;
  uint32_t next_operator_ = 0;  // 0: no range of the job was started, or nothing may follow
};

}  // namespace abacus

#endif  // ABACUS_WORKER_RUNTIME_JOB_PROGRESS_H_
