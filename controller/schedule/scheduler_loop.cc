#include "controller/schedule/scheduler_loop.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace abacus {
namespace {

constexpr uint64_t kOverdueCheckNs = kNsPerMs;  // how often waiting deadlines and running ranges are looked at
constexpr size_t kSubmitBatch = 64;  // new queries and cancellations per iteration, so completions are never far away

}  // namespace

SchedulerLoop::SchedulerLoop(Setup setup, const ServiceSetPtr& services)
    : policy_(std::move(setup.policy)),
      region_(setup.region),
      table_(*setup.table),
      channel_(*setup.channel),
      trace_(setup.config.trace_events),
      accounting_(setup.table, setup.channel, setup.region, &trace_, std::move(setup.wake_front_end)),
      context_{.config = setup.config,
               .round_timeout_ns = setup.round_timeout_ns,
               .region = setup.region,
               .table = setup.table,
               .policy = policy_.get(),
               .control = setup.control,
               .accounting = &accounting_,
               .trace = &trace_,
               .clock = std::move(setup.clock)},
      bell_(&region_->header().controller_bell) {
  for (size_t i = 0; i < setup.predictors.size(); ++i) {
    lanes_.emplace_back(LaneId(i), &context_, std::move(setup.predictors[i]));
  }
  TakeOver(*services);
}

void SchedulerLoop::Post(WorkerEvent event) {
  news_.Post(std::move(event));
  bell_.Ring();
}

void SchedulerLoop::Publish(ServiceSetPtr services) {
  news_.Post(std::move(services));
  bell_.Ring();
}

void SchedulerLoop::Run(const std::atomic<bool>& stop) {
  const uint64_t spin_ns = context_.config.spin_us * kNsPerUs;
  while (!stop.load(std::memory_order_acquire)) {
    const uint32_t ticket = bell_.Ticket();
    const uint64_t now_ns = MonotonicNs();
    region_->header().heartbeat_ns.store(now_ns, std::memory_order_relaxed);
    if (DoWork(now_ns) > 0) continue;
    const uint64_t idle_ns = IdleNs(now_ns);
    // Where cores are to spare, a running round is waited for awake: waking up takes longer than starting the next.
    bell_.Wait(ticket, idle_ns, AnyRoundRuns() && spin_ns > 0 ? idle_ns : spin_ns);
  }
}

bool SchedulerLoop::AnyRoundRuns() const { return std::ranges::any_of(lanes_, &Lane::running_round); }

uint64_t SchedulerLoop::IdleNs(uint64_t now_ns) const {
  if (InFlight() == 0) return kHeartbeatNs;
  uint64_t until_ns = now_ns + kOverdueCheckNs;
  for (const Lane& lane : lanes_) {
    if (lane.PlanAtNs() > now_ns) until_ns = std::min(until_ns, lane.PlanAtNs());
  }
  return until_ns - now_ns;
}

size_t SchedulerLoop::DoWork(uint64_t now_ns) {
  size_t work = 0;
  for (Lane& lane : lanes_) work += lane.HandleCompletions(now_ns);
  work += HandleNews(now_ns);
  work += HandleSubmitted(now_ns);
  work += HandleOverdue(now_ns);
  for (Lane& lane : lanes_) work += lane.PlanAndDispatch(now_ns);
  accounting_.Flush();
  return work;
}

size_t SchedulerLoop::HandleNews(uint64_t now_ns) {
  const std::vector<News> all = news_.Take();
  for (const News& news : all) {
    if (const auto* services = std::get_if<ServiceSetPtr>(&news)) {
      TakeOver(**services);
      continue;
    }
    const auto& event = std::get<WorkerEvent>(news);
    const bool known = std::ranges::any_of(lanes_, [&](Lane& lane) { return lane.HandleEvent(event, now_ns); });
    // A worker of a set that has not come yet; nothing of it is held here.
    if (!known && event.kind == WorkerEvent::kDown) context_.control->SlotReleased(event.worker);
  }
  return all.size();
}

void SchedulerLoop::TakeOver(const ServiceSet& services) {
  for (const ServicePtr& service : services.services()) lanes_[service->lane.value()].SetService(service);
}

size_t SchedulerLoop::HandleSubmitted(uint64_t now_ns) {
  std::array<uint32_t, kSubmitBatch> entries;
  const size_t count = channel_.submitted.pop(entries.data(), entries.size());
  for (const uint32_t entry : std::span(entries.data(), count)) {
    const uint32_t slot = entry & ~QueryChannel::kCancelBit;
    const bool cancels = entry != slot;
    if (cancels && !table_[slot].live) continue;  // it came too late
    Lane& lane = lanes_[table_[slot].service->lane.value()];
    cancels ? lane.Cancel(slot, now_ns) : lane.Enqueue(slot, now_ns);
  }
  return count;
}

size_t SchedulerLoop::HandleOverdue(uint64_t now_ns) {
  if (now_ns < next_overdue_check_ns_) return 0;
  next_overdue_check_ns_ = now_ns + kOverdueCheckNs;
  size_t handled = 0;
  for (Lane& lane : lanes_) handled += lane.HandleOverdue(now_ns);
  return handled;
}

}  // namespace abacus
