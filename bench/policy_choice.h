// PolicyChoice: a policy as the command line names it, with how it is set: NAME[:off][:DELAY].
//
// "edf" takes greedy batches, "edf:off" one query a job, "delay:2ms" waits so long for a full batch. Thread rule: pure
// functions.
#ifndef ABACUS_BENCH_POLICY_CHOICE_H_
#define ABACUS_BENCH_POLICY_CHOICE_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "controller/config/config.h"

namespace abacus::bench {

struct PolicyChoice {
  std::string text;  // as given
  std::string name;
  Batching batching = Batching::kGreedy;
  uint32_t max_queue_delay_us = 0;

  void Apply(SchedulerConfig* config) const {
    config->policy = name;
    config->batching = batching;
    config->max_queue_delay_us = max_queue_delay_us;
  }
};

// Errors show the text and what there is.
Result<PolicyChoice> ParsePolicyChoice(std::string_view text);
// The same of a list, in which "all" stands for every policy with greedy batches, those with a delay also at 1 ms and
// 2 ms, and for "abacus:off".
Result<std::vector<PolicyChoice>> ParsePolicyChoices(const std::vector<std::string>& texts);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_POLICY_CHOICE_H_
