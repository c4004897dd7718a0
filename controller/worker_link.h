// WorkerLink: the controller's end of one worker's rings: sends ranges and takes their completions, in order.
//
// A worker answers commands in order, one completion each, so the oldest command sent is the one that is answered next;
// anything else is a worker that broke its promises. Shared by the scheduler and the profiler.
// Thread rule: one thread. Ownership: borrows the block.
#ifndef ABACUS_CONTROLLER_WORKER_LINK_H_
#define ABACUS_CONTROLLER_WORKER_LINK_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>

#include "shm/doorbell.h"
#include "shm/layout.h"

namespace abacus {

// A range that runs, and one sent ahead for the round after.
inline constexpr size_t kMaxSent = 2;

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

  void Attach(WorkerBlock* block) { block_ = block; }

  const boost::container::static_vector<Sent, kMaxSent>& sent() const { return sent_; }
  bool idle() const { return sent_.empty(); }

  // False when the ring is full or damaged, or kMaxSent commands are out.
  bool Send(const Command& command, const Tag& tag) {
    if (sent_.size() == kMaxSent || !block_->commands.TryPush(command)) return false;
    Doorbell(&block_->command_bell).Ring();
    sent_.push_back({tag, command.job_id, command.first, command.last, command.gate, command.sent_ns});
    return true;
  }

  enum class Answer : uint8_t { kNone, kGood, kNonsense };
  // The next completion and the command that it answers.
  Answer Take(Completion* completion, Sent* answered) {
    if (!block_->completions.TryPop(completion)) return Answer::kNone;
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

  // The worker is gone: forgets what was sent and empties the rings for the next process.
  void Reset() {
    sent_.clear();
    block_->commands.Reset();
    block_->completions.Reset();
  }

 private:
  WorkerBlock* block_ = nullptr;
  boost::container::static_vector<Sent, kMaxSent> sent_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKER_LINK_H_
