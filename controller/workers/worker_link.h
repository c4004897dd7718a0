// WorkerLink: the controller's end of one worker's rings: sends ranges and takes their completions, in order.
//
// A worker answers commands in order, one completion each, so the oldest command sent is the one that is answered next;
// anything else is a worker that broke its promises. Shared by the scheduler and the profiler.
// Thread rule: one thread. Ownership: borrows the slot.
#ifndef ABACUS_CONTROLLER_WORKERS_WORKER_LINK_H_
#define ABACUS_CONTROLLER_WORKERS_WORKER_LINK_H_

#include <algorithm>
#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <span>

#include "shm/doorbell.h"
#include "shm/layout.h"

namespace abacus {

template <class Tag>
class WorkerLink {
 public:
  // A command that was sent and not answered, with what the sender wants to know about it.
  struct Sent {
    Tag tag;
    uint64_t job_id = 0;
    uint32_t first = 0;
    uint32_t last = 0;
    uint32_t gate = 0;
    uint64_t sent_ns = 0;
  };

  void Attach(WorkerSlot* slot) { slot_ = slot; }

  const boost::container::static_vector<Sent, kMaxSent>& sent() const { return sent_; }
  bool idle() const { return sent_.empty(); }

  // `queries`: those of the job, at most kMaxJobQueries; none for a synthetic job. They are published with the command
  // in the table that no command that is still out can name. False when the ring is full or damaged, or kMaxSent
  // commands are out.
  bool Send(Command command, std::span<const JobQuery> queries, const Tag& tag) {
    if (sent_.size() == kMaxSent) return false;
    command.query_table = next_table_;
    command.query_count = static_cast<uint32_t>(queries.size());
    std::copy(queries.begin(), queries.end(), slot_->queries[next_table_].begin());
    if (!slot_->commands.TryPush(command)) return false;
    next_table_ = (next_table_ + 1) % kMaxSent;
    Doorbell(&slot_->command_bell).Ring();
    sent_.push_back({tag, command.job_id, command.first, command.last, command.gate, command.sent_ns});
    return true;
  }

  enum class Answer : uint8_t { kNone, kGood, kNonsense };
  // The next completion and the command that it answers.
  Answer Take(Completion* completion, Sent* answered) {
    if (!slot_->completions.TryPop(completion)) return Answer::kNone;
    if (sent_.empty() || completion->job_id != sent_.front().job_id || completion->first != sent_.front().first ||
        completion->last != sent_.front().last || completion->status >= kStatusCodeNames.size()) {
      return Answer::kNonsense;
    }
    *answered = sent_.front();
    sent_.erase(sent_.begin());
    return Answer::kGood;
  }

  // Drops the oldest command sent: its worker will not answer.
  void Forget() { sent_.erase(sent_.begin()); }

  // The worker was checked and takes commands from now on.
  void Up() { slot_->state.store(static_cast<uint32_t>(WorkerState::kServing), std::memory_order_release); }
  // The worker is gone: forgets what was sent and empties the rings for the next process. After this the slot may be
  // given back (WorkerControl::SlotReleased).
  void Down() {
    sent_.clear();
    slot_->commands.Reset();
    slot_->completions.Reset();
    slot_->state.store(static_cast<uint32_t>(WorkerState::kExited), std::memory_order_release);
  }

 private:
  WorkerSlot* slot_ = nullptr;
  uint32_t next_table_ = 0;  // commands are answered in order, so the two tables take turns
  boost::container::static_vector<Sent, kMaxSent> sent_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_WORKER_LINK_H_
