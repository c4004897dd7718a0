#include "bench/simulator.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "base/clock.h"
#include "base/random.h"
#include "controller/schedule/scheduler_loop.h"
#include "shm/region.h"

namespace abacus::bench {
namespace {

constexpr uint64_t kStartNs = kNsPerSecond;  // the clock does not start at 0, which means "unset" to the scheduler
constexpr uint32_t kSlots = 1 << 16;
constexpr size_t kTraceEvents = 1 << 16;

class IgnoreControl : public WorkerControl {
 public:
  void SlotReleased(WorkerRef) override {}
  void Condemn(WorkerRef, const std::string& why) override { condemned = why; }
  std::string condemned;
};

// What the workers and the GPU do with the commands. Service number n runs in worker slot number n.
class SimulatedGpu {
 public:
  SimulatedGpu(const PredictorFile& file, const LatencyModel& truth, Region* region, size_t services, uint64_t seed)
      : file_(file), truth_(truth), region_(region), services_(services), random_(seed) {}

  // Takes new commands and starts what may start.
  void TakeCommands(uint64_t now_ns) {
    for (uint32_t s = 0; s < services_; ++s) {
      Command command;
      while (region_->worker(WorkerId(s)).commands.TryPop(&command)) {
        Range range;
        range.command = command;
        range.range = {ServiceId(s), command.bucket, command.first, command.last};
        range.solo_ns = static_cast<double>(std::max<uint64_t>(1, truth_.PredictNs(range.range)));
        if (command.gate != 0) {
          held_.push_back(range);
        } else {
          Advance(now_ns);
          range.left_ns = range.solo_ns * DrawError();
          running_.push_back(range);
          Share(now_ns);
        }
      }
    }
    OpenGate(now_ns);
  }

  // When the next range ends; nullopt: nothing runs.
  std::optional<uint64_t> NextEndNs() const {
    std::optional<uint64_t> next;
    for (const Range& range : running_) next = std::min(next.value_or(UINT64_MAX), range.end_ns);
    return next;
  }
  bool busy() const { return !running_.empty(); }

  // Completes what has ended by now.
  void Complete(uint64_t now_ns) {
    Advance(now_ns);
    bool free_ended = false;
    std::erase_if(running_, [&](const Range& range) {
      if (range.end_ns > now_ns) return false;
      Completion completion;
      completion.job_id = range.command.job_id;
      completion.first = range.command.first;
      completion.last = range.command.last;
      completion.ended_ns = now_ns;
      region_->worker(WorkerId(range.range.service.value())).completions.TryPush(completion);
      free_ended |= range.command.gate == 0;
      return true;
    });
    if (free_ended) Share(now_ns);
  }

 private:
  struct Range {
    Command command;
    OperatorRange range;  // of a free range: what it still has to do
    double solo_ns = 0;
    double left_ns = 0;  // of a free range: time that it still needs, alone
    uint64_t end_ns = 0;
  };

  double DrawError() {
    if (file_.residuals.empty()) return 1;
    const double at = UnitOf(random_()) * static_cast<double>(file_.residuals.size() - 1);
    const auto low = static_cast<size_t>(at);
    const size_t high = std::min(low + 1, file_.residuals.size() - 1);
    const double share = at - static_cast<double>(low);
    return 1 + file_.residuals[low] * (1 - share) + file_.residuals[high] * share;
  }

  // Rounds: starts the ranges whose gate is open, together.
  void OpenGate(uint64_t now_ns) {
    const Gate gate(&region_->lane(LaneId()).gate);
    std::vector<Range> group;
    std::erase_if(held_, [&](const Range& range) {
      if (!gate.Reached(range.command.gate)) return false;
      group.push_back(range);
      return true;
    });
    if (group.empty()) return;
    std::vector<OperatorRange> ranges;
    double longest_ns = 1;
    for (const Range& range : group) {
      ranges.push_back(range.range);
      longest_ns = std::max(longest_ns, range.solo_ns);
    }
    const double round_ns = static_cast<double>(truth_.PredictNs(ranges)) * DrawError();
    for (Range& range : group) {
      range.end_ns = now_ns + static_cast<uint64_t>(round_ns * range.solo_ns / longest_ns);
      running_.push_back(range);
    }
  }

  // Without rounds: moves what runs forward to now ...
  void Advance(uint64_t now_ns) {
    for (Range& range : running_) {
      if (range.command.gate != 0) continue;
      range.left_ns = std::max(0.0, range.left_ns - static_cast<double>(now_ns - shared_ns_) / slowdown_);
      const uint32_t operators = range.command.last - range.command.first;
      const double rest = std::ceil(operators * std::min(1.0, range.left_ns / range.solo_ns));
      range.range.first = range.command.last - std::clamp(static_cast<uint32_t>(rest), 1u, operators);
    }
    shared_ns_ = now_ns;
  }
  // ... and shares the GPU among those that run from now on, until the first of them ends. Advance comes before.
  void Share(uint64_t now_ns) {
    std::vector<OperatorRange> ranges;
    uint64_t shortest_ns = UINT64_MAX;
    for (const Range& range : running_) {
      ranges.push_back(range.range);
      shortest_ns = std::min(shortest_ns, std::max<uint64_t>(1, truth_.PredictNs(range.range)));
    }
    slowdown_ = 1;
    if (ranges.size() > 1) {
      for (OperatorRange& range : ranges) range.last = EndAfter(range, shortest_ns);
      const double slowdown = static_cast<double>(truth_.PredictNs(ranges)) / static_cast<double>(shortest_ns);
      // The cost of a round is in every prediction and would count for too much in the last microseconds of a range.
      slowdown_ = std::clamp(slowdown, 1.0, kHighestShare * static_cast<double>(ranges.size()));
    }
    for (Range& range : running_) {
      range.end_ns = now_ns + std::max<uint64_t>(1, static_cast<uint64_t>(range.left_ns * slowdown_));
    }
  }
  // The first operator up to which the range takes `solo_ns` alone.
  uint32_t EndAfter(OperatorRange range, uint64_t solo_ns) const {
    uint32_t low = range.first + 1, high = range.last;
    while (low < high) {
      range.last = low + (high - low) / 2;
      truth_.PredictNs(range) < solo_ns ? low = range.last + 1 : high = range.last;
    }
    return low;
  }

  const PredictorFile& file_;
  const LatencyModel& truth_;
  Region* const region_;
  const size_t services_;
  std::mt19937_64 random_;
  std::vector<Range> running_;
  std::vector<Range> held_;  // wait for their gate
  double slowdown_ = 1;      // of the free ranges, since shared_ns_
  uint64_t shared_ns_ = 0;
};

ServiceConfig MakeService(const ModelProfile& model, uint64_t qos_ns) {
  ServiceConfig service;
  service.name = model.name;
  service.gpu = "0";
  service.qos_ns = qos_ns;
  service.queue_limit = kSlots;
  service.spec.name = model.name;
  for (const BucketProfile& bucket : model.buckets) {
    const auto add = [](std::vector<int64_t>* sizes, int64_t size) {
      if (std::find(sizes->begin(), sizes->end(), size) == sizes->end()) sizes->push_back(size);
    };
    add(&service.spec.batch_sizes, bucket.batch);
    if (bucket.sequence > 0) add(&service.spec.sequence_lengths, bucket.sequence);
  }
  return service;
}

void PublishRanges(const ProfileData& subject, const ModelProfile& model, WorkerSlot* block) {
  StoreText(block->device_name, subject.device);
  StoreText(block->libraries, subject.libraries);
  StoreText(block->structure, model.structure);
  for (size_t b = 0; b < model.buckets.size(); ++b) {
    const BucketProfile& bucket = model.buckets[b];
    RangeTableEntry& entry = block->ranges[b];
    entry.operators = bucket.operators;
    entry.solo_ns = static_cast<uint64_t>(bucket.whole_us() * 1e3);
    entry.cut_count = static_cast<uint32_t>(std::min(bucket.operators_at.size(), entry.cuts.size()));
    std::copy_n(bucket.operators_at.begin(), entry.cut_count, entry.cuts.begin());
  }
}

}  // namespace

std::vector<SimArrival> PoissonArrivals(double rate_per_s, double seconds,
                                        const std::vector<std::vector<uint32_t>>& buckets, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto unit = [&] { return UnitOf(random()); };
  std::vector<SimArrival> arrivals;
  double at_s = 0;
  for (;;) {
    at_s -= std::log(1 - unit()) / rate_per_s;
    if (at_s >= seconds) return arrivals;
    const auto service = static_cast<uint32_t>(unit() * static_cast<double>(buckets.size()));
    const auto choice = static_cast<size_t>(unit() * static_cast<double>(buckets[service].size()));
    arrivals.push_back({static_cast<uint64_t>(at_s * 1e9), service, buckets[service][choice]});
  }
}

Result<SimResult> Simulate(const PredictorFile& file, const SimOptions& options,
                           const std::vector<SimArrival>& arrivals) {
  Config config;
  config.server.name = "simulate-" + std::to_string(getpid());
  config.scheduler.policy = options.policy;
  config.scheduler.packing = options.packing;
  config.scheduler.abandon = options.abandon;
  config.scheduler.trace_events = options.timeline > 0 ? kTraceEvents : 0;
  for (size_t s = 0; s < options.models.size(); ++s) {
    config.services.push_back(MakeService(file.subject.models[options.models[s]], options.qos_ns[s]));
  }
  auto region = Region::Create(config.server.name, {config.services.size(), 1}, 1 << 20);
  if (!region) return Error(region.error());
  ServicePredictor truth = ServicePredictor::Use(file);
  if (!truth.trained()) return Error(StatusCode::kInvalidArgument, "the predictor file does not fit itself");
  auto policy = MakePolicy(options.policy, options.packing);
  if (!policy) return Error(policy.error());

  QueryTable table(kSlots);
  QueryChannel channel(kSlots);
  IgnoreControl control;
  uint64_t now_ns = kStartNs;
  const ServiceSetPtr services = MakeServiceSet(config);
  SchedulerLoop::Setup setup{.config = config.scheduler,
                             .round_timeout_ns = UINT64_MAX / 4,
                             .policy = std::move(*policy),
                             .predictors = {},
                             .region = region->get(),
                             .table = &table,
                             .channel = &channel,
                             .control = &control,
                             .wake_front_end = [] {},
                             .clock = [&now_ns] { return now_ns; }};
  setup.predictors.push_back(ServicePredictor::Use(file));
  SchedulerLoop loop(std::move(setup), services);
  for (uint32_t s = 0; s < config.services.size(); ++s) {
    WorkerSlot& slot = (*region)->worker(WorkerId(s));
    PublishRanges(file.subject, file.subject.models[options.models[s]], &slot);
    loop.Post({WorkerEvent::kUp, {WorkerId(s), 1}, {}});
    const auto ranges = ReadWorkerRanges(slot, config.services[s].spec.bucket_count());
    if (!ranges) return Error(ranges.error());
    truth.WorkerUp(ServiceId(s), config.services[s].name, config.services[s].spec,
                   {file.subject.device, file.subject.libraries, LoadText(slot.structure), *ranges});
    if (!options.takes.empty()) {
      for (uint32_t b = 0; b < ranges->size(); ++b) truth.solo()->Set(ServiceId(s), b, options.takes[s]);
    }
    const OperatorRange whole = {ServiceId(s), 0, 0, ranges->front().operators};
    if (!truth.model().Predict({&whole, 1}).trained) {
      return Error(StatusCode::kInvalidArgument, "the predictor does not fit its own model " + config.services[s].name);
    }
  }
  SimulatedGpu gpu(file, truth.model(), region->get(), config.services.size(), options.seed);

  const PredictorStats& stats = (*region)->lane(LaneId()).predictor;
  SimResult result;
  uint64_t busy_ns = 0;
  size_t next_arrival = 0, answered = 0;
  uint64_t wake_ns = now_ns;
  while (answered < arrivals.size()) {
    // The next thing that happens: an arrival, the end of a range, or what the scheduler waits for.
    uint64_t then_ns = wake_ns;
    if (next_arrival < arrivals.size()) then_ns = std::min(then_ns, kStartNs + arrivals[next_arrival].at_ns);
    if (const auto end_ns = gpu.NextEndNs()) then_ns = std::min(then_ns, *end_ns);
    then_ns = std::max(then_ns, now_ns);
    if (gpu.busy()) busy_ns += then_ns - now_ns;
    now_ns = then_ns;

    gpu.Complete(now_ns);
    while (next_arrival < arrivals.size() && kStartNs + arrivals[next_arrival].at_ns <= now_ns) {
      const auto slot = table.Acquire();
      if (!slot) {  // more waiting than a controller would hold
        ++result.refused, ++answered, ++next_arrival;
        continue;
      }
      const SimArrival& arrival = arrivals[next_arrival++];
      Query& query = table[*slot];
      query.id = next_arrival;
      query.service = services->services()[arrival.service];
      const Bucket bucket = query.service->config.spec.bucket(arrival.bucket);
      query.rows = static_cast<uint32_t>(bucket.batch);
      query.sequence = static_cast<uint32_t>(bucket.sequence);
      query.synthetic = true;
      query.timing = {};
      query.arrival_ns = kStartNs + arrival.at_ns;
      query.deadline_ns = query.arrival_ns + options.qos_ns[arrival.service];
      channel.submitted.push(*slot);
    }
    while (loop.DoWork(now_ns) > 0) gpu.TakeCommands(now_ns);
    gpu.TakeCommands(now_ns);
    wake_ns = now_ns + std::max<uint64_t>(1, loop.IdleNs(now_ns));
    if (!control.condemned.empty()) return Error(StatusCode::kInternal, "simulated worker: " + control.condemned);

    if (result.trace.empty() && options.timeline > 0 && stats.rounds.load() >= options.timeline) {
      result.trace = loop.trace().Copy();  // before later events overwrite these
    }
    uint32_t slot = 0;
    while (channel.done.pop(slot)) {
      const Query& query = table[slot];
      const uint64_t latency_ns = now_ns - query.arrival_ns;
      ++answered;
      if (query.status != StatusCode::kOk) {
        ++result.refused;
      } else {
        ++(now_ns <= query.deadline_ns ? result.in_time : result.late);
        result.latency_ns.push_back(latency_ns);
      }
      table.Return(slot);
    }
  }
  result.sent = arrivals.size();
  result.rounds = stats.rounds.load();
  result.rounds_over = stats.rounds_over.load();
  result.rounds_several = stats.rounds_several.load();
  result.margin = stats.margin_ppm.load() * 1e-6;
  result.end_ns = now_ns - kStartNs;
  result.busy = static_cast<double>(busy_ns) / static_cast<double>(std::max<uint64_t>(1, result.end_ns));
  std::sort(result.latency_ns.begin(), result.latency_ns.end());
  if (result.trace.empty()) result.trace = loop.trace().Copy();
  return result;
}

}  // namespace abacus::bench
