#include "bench/simulator.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "bench/simulated_gpu.h"
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

ServiceConfig MakeService(const ModelProfile& model, const SimService& options) {
  ServiceConfig service;
  service.name = model.name;
  service.gpu = "0";
  service.qos_ns = options.qos_ns;
  service.queue_limit = kSlots;
  service.max_batch = options.max_batch;
  service.spec = SpecOf(model);
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

// Where queries come from.
class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t NextNs() const = 0;  // from the start; UINT64_MAX: none for now
  virtual SimArrival Take() = 0;
  virtual void Answered(uint32_t service, uint64_t now_ns) = 0;
};

class Recorded : public Source {
 public:
  explicit Recorded(std::span<const SimArrival> arrivals) : arrivals_(arrivals) {}
  uint64_t NextNs() const override { return next_ < arrivals_.size() ? arrivals_[next_].at_ns : UINT64_MAX; }
  SimArrival Take() override { return arrivals_[next_++]; }
  void Answered(uint32_t, uint64_t) override {}

 private:
  const std::span<const SimArrival> arrivals_;
  size_t next_ = 0;
};

// Each answer makes room for the next query of its service.
class KeptFull : public Source {
 public:
  // `query`: of each service.
  KeptFull(std::vector<SimArrival> query, uint32_t queries) : query_(std::move(query)) {
    for (uint32_t i = 0; i < queries; ++i) {
      for (uint32_t s = 0; s < query_.size(); ++s) due_.push_back(s);
    }
  }
  uint64_t NextNs() const override { return next_ < due_.size() ? since_ns_ : UINT64_MAX; }
  SimArrival Take() override {
    SimArrival arrival = query_[due_[next_]];
    arrival.at_ns = since_ns_;
    if (++next_ == due_.size()) {
      due_.clear();
      next_ = 0;
    }
    return arrival;
  }
  void Answered(uint32_t service, uint64_t now_ns) override {
    since_ns_ = now_ns;
    due_.push_back(service);
  }

 private:
  const std::vector<SimArrival> query_;
  std::vector<uint32_t> due_;  // services that are to get a query
  size_t next_ = 0;
  uint64_t since_ns_ = 0;
};

class Simulation {
 public:
  static Result<std::unique_ptr<Simulation>> Create(const PredictorFile& file, const SimOptions& options) {
    std::unique_ptr<Simulation> simulation(new Simulation(file, options));
    ABACUS_RETURN_IF_ERROR(simulation->SetUp());
    return simulation;
  }

  // A query that the model of its service takes.
  Status Check(const SimArrival& arrival) const {
    if (arrival.service >= config_.services.size()) {
      return {StatusCode::kInvalidArgument, "an arrival is of service " + std::to_string(arrival.service) + " of " +
                                                std::to_string(config_.services.size())};
    }
    const ModelSpec& spec = config_.services[arrival.service].spec;
    const auto rows = std::min(static_cast<int64_t>(arrival.rows), spec.batch_sizes.back());
    if (rows >= 1 && spec.FindBucket(rows, arrival.sequence)) return Status::Ok();
    return {StatusCode::kInvalidArgument, config_.services[arrival.service].name + " takes no query of " +
                                              std::to_string(arrival.rows) + " rows of length " +
                                              std::to_string(arrival.sequence)};
  }
  // One row of the longest sequence.
  SimArrival OneRow(uint32_t service) const {
    const ModelSpec& spec = config_.services[service].spec;
    return {0, service, 1, spec.has_sequence() ? static_cast<uint32_t>(spec.sequence_lengths.back()) : 0};
  }

  // Until `queries` are answered or the clock stands at `until_ns` from the start. `most_violated`: of each service,
  // beyond which the run is given up.
  Status Run(Source* source, uint64_t queries, uint64_t until_ns, const std::vector<uint64_t>& most_violated);
  // What was counted so far is forgotten.
  void Restart();
  SimResult Finish();

 private:
  Simulation(const PredictorFile& file, const SimOptions& options)
      : file_(file), options_(options), table_(kSlots), channel_(kSlots), truth_(ServicePredictor::Use(file)) {}
  Status SetUp();
  void Submit(const SimArrival& arrival, uint32_t slot);
  // Counts what was answered. False: a service has more violations than it may.
  bool TakeAnswers(Source* source, const std::vector<uint64_t>& most_violated);
  // What is counted elsewhere.
  SimResult Counted() const;

  const PredictorFile& file_;
  const SimOptions& options_;
  Config config_;
  std::unique_ptr<Region> region_;
  QueryTable table_;
  QueryChannel channel_;
  IgnoreControl control_;
  ServicePredictor truth_;
  ServiceSetPtr services_;
  std::optional<SchedulerLoop> loop_;
  std::optional<SimulatedGpu> gpu_;
  std::vector<double> errors_;
  uint64_t now_ns_ = kStartNs;
  uint64_t wake_ns_ = kStartNs;
  uint64_t since_ns_ = kStartNs;  // what is counted
  uint64_t busy_ns_ = 0;
  uint64_t sent_ = 0;
  uint64_t answered_ = 0;
  SimResult result_;
  SimResult before_;  // Counted(), when counting began
};

Status Simulation::SetUp() {
  config_.server.name = "simulate-" + std::to_string(getpid());
  config_.scheduler = options_.scheduler;
  config_.scheduler.trace_events = options_.timeline > 0 ? kTraceEvents : 0;
  for (const SimService& service : options_.services) {
    config_.services.push_back(MakeService(file_.subject.models[service.model], service));
  }
  auto region = Region::Create(config_.server.name, {config_.services.size(), 1}, 1 << 20);
  if (!region) return region.error();
  region_ = std::move(*region);
  if (!truth_.trained()) return {StatusCode::kInvalidArgument, "the predictor file does not fit itself"};
  auto policy = MakePolicy(config_.scheduler);
  if (!policy) return policy.error();
  services_ = MakeServiceSet(config_);
  SchedulerLoop::Setup setup{.config = config_.scheduler,
                             .round_timeout_ns = UINT64_MAX / 4,
                             .policy = std::move(*policy),
                             .predictors = {},
                             .region = region_.get(),
                             .table = &table_,
                             .channel = &channel_,
                             .control = &control_,
                             .wake_front_end = [] {},
                             .clock = [this] { return now_ns_; }};
  setup.predictors.push_back(ServicePredictor::Use(file_));
  loop_.emplace(std::move(setup), services_);
  for (uint32_t s = 0; s < config_.services.size(); ++s) {
    const ModelProfile& model = file_.subject.models[options_.services[s].model];
    WorkerSlot& slot = region_->worker(WorkerId(s));
    PublishRanges(file_.subject, model, &slot);
    loop_->Post({WorkerEvent::kUp, {WorkerId(s), 1}, {}});
    const auto ranges = ReadWorkerRanges(slot, config_.services[s].spec.bucket_count());
    if (!ranges) return ranges.error();
    truth_.WorkerUp(ServiceId(s), model.name, config_.services[s].spec,
                    {file_.subject.device, file_.subject.libraries, LoadText(slot.structure), *ranges});
    for (uint32_t b = 0; b < ranges->size(); ++b) truth_.solo()->Set(ServiceId(s), b, options_.services[s].takes);
    const OperatorRange whole = {ServiceId(s), 0, 0, ranges->front().operators};
    if (!truth_.model().Predict({&whole, 1}).trained) {
      return {StatusCode::kInvalidArgument, "the predictor does not fit its own model " + model.name};
    }
  }
  if (options_.errors) errors_ = file_.residuals;
  gpu_.emplace(errors_, truth_.model(), region_.get(), config_.services.size(), options_.seed);
  result_.services.resize(config_.services.size());
  before_ = Counted();
  return Status::Ok();
}

void Simulation::Submit(const SimArrival& arrival, uint32_t slot) {
  Query& query = table_[slot];
  query.id = ++sent_;
  query.service = services_->services()[arrival.service];
  query.rows = arrival.rows;
  query.sequence = arrival.sequence;
  query.synthetic = true;
  query.timing = {};
  query.arrival_ns = kStartNs + arrival.at_ns;
  query.deadline_ns = query.arrival_ns + options_.services[arrival.service].qos_ns;
  channel_.submitted.push(slot);
}

Status Simulation::Run(Source* source, uint64_t queries, uint64_t until_ns,
                       const std::vector<uint64_t>& most_violated) {
  const PredictorStats& stats = region_->lane(LaneId()).predictor;
  while (answered_ < queries && now_ns_ - kStartNs < until_ns) {
    // The next thing that happens: an arrival, the end of a range, or what the scheduler waits for.
    uint64_t then_ns = wake_ns_;
    if (source->NextNs() != UINT64_MAX) then_ns = std::min(then_ns, kStartNs + source->NextNs());
    if (const auto end_ns = gpu_->NextEndNs()) then_ns = std::min(then_ns, *end_ns);
    then_ns = std::max(then_ns, now_ns_);
    if (gpu_->busy()) busy_ns_ += then_ns - now_ns_;
    now_ns_ = then_ns;

    gpu_->Complete(now_ns_);
    while (source->NextNs() != UINT64_MAX && kStartNs + source->NextNs() <= now_ns_) {
      const SimArrival arrival = source->Take();
      SimCounts& counts = result_.services[arrival.service];
      ++counts.sent;
      if (const auto slot = table_.Acquire()) {
        Submit(arrival, *slot);
      } else {  // more waiting than a controller would hold
        ++counts.refused;
        ++answered_;
      }
    }
    while (loop_->DoWork(now_ns_) > 0) gpu_->TakeCommands(now_ns_);
    gpu_->TakeCommands(now_ns_);
    wake_ns_ = now_ns_ + std::max<uint64_t>(1, loop_->IdleNs(now_ns_));
    if (!control_.condemned.empty()) return {StatusCode::kInternal, "simulated worker: " + control_.condemned};
    if (result_.trace.empty() && options_.timeline > 0 && stats.rounds.load() >= options_.timeline) {
      result_.trace = loop_->trace().Copy();  // before later events overwrite these
    }
    if (!TakeAnswers(source, most_violated)) {
      result_.gave_up = true;
      return Status::Ok();
    }
  }
  return Status::Ok();
}

bool Simulation::TakeAnswers(Source* source, const std::vector<uint64_t>& most_violated) {
  bool within = true;
  uint32_t slot = 0;
  while (channel_.done.pop(slot)) {
    const Query& query = table_[slot];
    const auto service = static_cast<uint32_t>(query.service->id.value());
    SimCounts& counts = result_.services[service];
    if (query.status != StatusCode::kOk) {
      ++counts.refused;
    } else {
      ++(now_ns_ <= query.deadline_ns ? counts.in_time : counts.late);
      counts.rows_done += query.rows;
      counts.latency_ns.push_back(now_ns_ - query.arrival_ns);
    }
    within &= most_violated.empty() || counts.violated() <= most_violated[service];
    ++answered_;
    table_.Return(slot);
    source->Answered(service, now_ns_ - kStartNs);
  }
  return within;
}

void Simulation::Restart() {
  since_ns_ = now_ns_;
  busy_ns_ = 0;
  result_ = {};
  result_.services.resize(config_.services.size());
  before_ = Counted();
}

SimResult Simulation::Counted() const {
  const PredictorStats& stats = region_->lane(LaneId()).predictor;
  SimResult counted;
  counted.rounds = stats.rounds.load();
  counted.rounds_over = stats.rounds_over.load();
  counted.rounds_several = stats.rounds_several.load();
  for (uint32_t s = 0; s < config_.services.size(); ++s) {
    const ServiceStats& service = region_->service(ServiceId(s)).stats;
    SimCounts& counts = counted.services.emplace_back();
    counts.jobs = service.jobs.load();
    counts.job_rows = service.job_rows.load();
    counts.padding_rows = service.padding_rows.load();
  }
  return counted;
}

SimResult Simulation::Finish() {
  const SimResult counted = Counted();
  result_.rounds = counted.rounds - before_.rounds;
  result_.rounds_over = counted.rounds_over - before_.rounds_over;
  result_.rounds_several = counted.rounds_several - before_.rounds_several;
  SimCounts& total = result_.total;
  for (size_t s = 0; s < result_.services.size(); ++s) {
    SimCounts& counts = result_.services[s];
    counts.jobs = counted.services[s].jobs - before_.services[s].jobs;
    counts.job_rows = counted.services[s].job_rows - before_.services[s].job_rows;
    counts.padding_rows = counted.services[s].padding_rows - before_.services[s].padding_rows;
    for (const auto field : {&SimCounts::sent, &SimCounts::in_time, &SimCounts::late, &SimCounts::refused,
                             &SimCounts::rows_done, &SimCounts::jobs, &SimCounts::job_rows, &SimCounts::padding_rows}) {
      total.*field += counts.*field;
    }
    std::sort(counts.latency_ns.begin(), counts.latency_ns.end());
    total.latency_ns.insert(total.latency_ns.end(), counts.latency_ns.begin(), counts.latency_ns.end());
  }
  std::sort(total.latency_ns.begin(), total.latency_ns.end());
  result_.margin = region_->lane(LaneId()).predictor.margin_ppm.load() * 1e-6;
  result_.end_ns = now_ns_ - since_ns_;
  result_.busy = SimCounts::Share(busy_ns_, result_.end_ns);
  if (result_.trace.empty()) result_.trace = loop_->trace().Copy();
  return std::move(result_);
}

}  // namespace

ModelSpec SpecOf(const ModelProfile& model) {
  ModelSpec spec;
  spec.name = model.name;
  const auto add = [](std::vector<int64_t>* sizes, int64_t size) {
    if (std::find(sizes->begin(), sizes->end(), size) == sizes->end()) sizes->push_back(size);
  };
  for (const BucketProfile& bucket : model.buckets) {
    add(&spec.batch_sizes, bucket.batch);
    if (bucket.sequence > 0) add(&spec.sequence_lengths, bucket.sequence);
  }
  return spec;
}

double SimResult::worst_violation() const {
  double worst = 0;
  for (const SimCounts& counts : services) worst = std::max(worst, counts.violation());
  return worst;
}

double SimResult::goodput_per_s(const SimCounts& counts) const {
  return static_cast<double>(counts.in_time) * 1e9 / static_cast<double>(std::max<uint64_t>(1, end_ns));
}

Result<SimResult> Simulate(const PredictorFile& file, const SimOptions& options, std::span<const SimArrival> arrivals) {
  auto simulation = Simulation::Create(file, options);
  if (!simulation) return Error(simulation.error());
  std::vector<uint64_t> most_violated(options.services.size());
  for (const SimArrival& arrival : arrivals) {
    ABACUS_RETURN_IF_ERROR((*simulation)->Check(arrival));
    ++most_violated[arrival.service];
  }
  const std::vector<uint64_t> of_service = most_violated;
  for (uint64_t& count : most_violated) count = static_cast<uint64_t>(static_cast<double>(count) * options.give_up);
  Recorded source(arrivals);
  ABACUS_RETURN_IF_ERROR((*simulation)->Run(&source, arrivals.size(), UINT64_MAX, most_violated));
  SimResult result = (*simulation)->Finish();
  for (size_t s = 0; s < of_service.size(); ++s) result.services[s].sent = of_service[s];
  result.total.sent = arrivals.size();
  return result;
}

Result<SimResult> SimulateFull(const PredictorFile& file, const SimOptions& options, const FullQueues& queues) {
  auto simulation = Simulation::Create(file, options);
  if (!simulation) return Error(simulation.error());
  std::vector<SimArrival> one_row;
  for (uint32_t s = 0; s < options.services.size(); ++s) one_row.push_back((*simulation)->OneRow(s));
  KeptFull source(std::move(one_row), queues.queries);
  ABACUS_RETURN_IF_ERROR((*simulation)->Run(&source, UINT64_MAX, queues.warm_up_ns, {}));
  (*simulation)->Restart();
  ABACUS_RETURN_IF_ERROR((*simulation)->Run(&source, UINT64_MAX, queues.warm_up_ns + queues.measure_ns, {}));
  return (*simulation)->Finish();
}

}  // namespace abacus::bench
