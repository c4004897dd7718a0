#include "client/load_generator.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace abacus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLongestSleep = std::chrono::milliseconds(50);  // between two looks at the stop flag

// Shared by the sender, the client's callbacks and the progress thread.
struct Run {
  std::vector<LoadRecord> records;
  std::atomic<uint64_t> sent{0}, done{0}, ok{0}, violations{0};
  std::mutex mutex;
  std::condition_variable changed;  // the last query is done, or finished is set
  bool finished = false;            // guarded by mutex

  LoadProgress Progress(double elapsed_s) const { return {elapsed_s, sent, done, ok, violations}; }
};

void Complete(Run& run, LoadRecord& record, uint64_t qos_us, Clock::time_point sent_at,
              const Result<InferReply>& reply) {
  record.latency_ns = static_cast<uint64_t>((Clock::now() - sent_at) / std::chrono::nanoseconds(1));
  record.answered = reply.has_value();
  record.status = reply ? reply->status.code() : reply.error().code();
  const bool ok = record.answered && record.status == StatusCode::kOk;
  if (ok) run.ok.fetch_add(1);
  const bool in_time = ok && (qos_us == 0 || record.latency_ns <= qos_us * 1000);
  if (!in_time && record.status != StatusCode::kCancelled) run.violations.fetch_add(1);
  const std::lock_guard lock(run.mutex);
  run.done.fetch_add(1);
  run.changed.notify_all();
}

ClientCounters Since(const ClientCounters& now, const ClientCounters& before) {
  return {now.sent - before.sent, now.replies - before.replies,       now.timeouts - before.timeouts,
          now.late - before.late, now.duplicates - before.duplicates, now.malformed - before.malformed};
}

}  // namespace

LoadOutcome RunLoad(Client& client, const LoadPlan& plan, const std::atomic<bool>& stop,
                    const std::function<void(const LoadProgress&)>& progress) {
  Run run;
  run.records.resize(plan.arrivals.size());
  const ClientCounters before = client.counters();
  const int timer_slack_ns = prctl(PR_GET_TIMERSLACK);
  prctl(PR_SET_TIMERSLACK, 1);  // wake up on time: the default allows 50 us
  const auto start = Clock::now();
  const auto elapsed_s = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };

  std::jthread reporter;
  if (progress) {
    reporter = std::jthread([&] {
      std::unique_lock lock(run.mutex);
      for (int second = 1; !run.finished; ++second) {
        const bool finished =
            run.changed.wait_until(lock, start + std::chrono::seconds(second), [&] { return run.finished; });
        if (!finished) progress(run.Progress(elapsed_s()));
      }
    });
  }

  for (size_t i = 0; i < plan.arrivals.size() && !stop; ++i) {
    const auto due = start + std::chrono::nanoseconds(plan.arrivals[i].at_ns);
    auto now = Clock::now();
    while (now < due && !stop) {
      std::this_thread::sleep_until(std::min(due, now + kLongestSleep));
      now = Clock::now();
    }
    if (stop) break;
    const LoadChoice& choice = plan.choices[plan.arrivals[i].choice];
    LoadRecord& record = run.records[i];
    record.service = choice.service;
    record.sent = true;
    record.lateness_ns = static_cast<uint64_t>((now - due) / std::chrono::nanoseconds(1));
    run.sent.fetch_add(1);
    const uint64_t qos_us = plan.services[choice.service].qos_us;
    client.SubmitAsync(choice.request, [&run, &record, qos_us, now](const Result<InferReply>& reply) {
      Complete(run, record, qos_us, now, reply);
    });
  }

  LoadOutcome outcome;
  {
    std::unique_lock lock(run.mutex);  // the client completes every query within its time limit
    bool cancelled = false;
    while (!run.changed.wait_for(lock, kLongestSleep, [&] { return run.done == run.sent; })) {
      if (stop && !std::exchange(cancelled, true)) client.CancelAll();
    }
    outcome.duration_s = elapsed_s();
    run.finished = true;
  }
  run.changed.notify_all();
  reporter = {};
  prctl(PR_SET_TIMERSLACK, timer_slack_ns);
  outcome.interrupted = stop;
  outcome.counters = Since(client.counters(), before);
  outcome.records = std::move(run.records);
  return outcome;
}

}  // namespace abacus
