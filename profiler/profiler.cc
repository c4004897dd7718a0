#include "profiler/profiler.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/clock.h"
#include "base/log.h"
#include "base/signals.h"
#include "controller/app/run_directory.h"
#include "controller/config/service_set.h"
#include "controller/workers/mps_control.h"
#include "controller/workers/subprocess.h"
#include "controller/workers/worker_ranges.h"
#include "predictor/profile_data.h"
#include "profiler/progress.h"
#include "profiler/round_runner.h"
#include "profiler/sampler.h"

namespace abacus {
namespace {

constexpr uint64_t kArenaBytes = 1 << 20;  // synthetic jobs carry no tensors
constexpr uint64_t kClockEveryNs = 15 * kNsPerSecond;
constexpr int kSoloTries = 5;  // of one bucket, whose worker fails
constexpr uint64_t kStopTimeoutNs = 5 * kNsPerSecond;

// A measurement has settled when its median is this close to its fastest repetition.
constexpr double kCloseShare = 0.02;
constexpr double kCloseUs = 2;
constexpr size_t kMostTries = 4;  // times the asked-for repetitions

// The lower one of two.
double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The ascending sequence that is closest to `values` in the sum of squares: noise can make a longer prefix come out
// shorter than a shorter one. Pool adjacent violators (Ayer et al., 1955).
void MakeAscending(std::vector<double>* values) {
  struct Pool {
    double mean;
    size_t size;
  };
  std::vector<Pool> pools;
  for (const double value : *values) {
    pools.push_back({value, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean > pools.back().mean) {
      const Pool last = pools.back();
      pools.pop_back();
      Pool& before = pools.back();
      const auto total = static_cast<double>(before.size + last.size);
      before.mean += (last.mean - before.mean) * static_cast<double>(last.size) / total;
      before.size += last.size;
    }
  }
  values->clear();
  for (const Pool& pool : pools) values->insert(values->end(), pool.size, pool.mean);
}

// Reads driver and clocks from nvidia-smi; empty without it.
std::vector<std::string> QueryGpu(const std::string& gpu, const std::string& fields) {
  const auto out = RunCommand({"nvidia-smi", "-i", gpu, "--query-gpu=" + fields, "--format=csv,noheader,nounits"}, "",
                              5 * kNsPerSecond);
  std::vector<std::string> values;
  if (!out) return values;
  std::istringstream line(*out);
  for (std::string value; std::getline(line, value, ',');) {
    value.erase(0, value.find_first_not_of(" \n"));
    value.erase(value.find_last_not_of(" \n") + 1);
    values.push_back(value);
  }
  return values;
}

class Profiler {
 public:
  Profiler(const Config& config, const ServiceSetPtr& services, const ProfileOptions& options, bool gpu, Region* region,
           RoundRunner* runner)
      : services_(services),
        options_(options),
        gpu_(gpu),
        smi_gpu_(options.nvidia_smi_gpu.empty() ? config.worker.gpus.front() : options.nvidia_smi_gpu),
        region_(region),
        runner_(runner) {}

  Status Run();

 private:
  using Range = RoundRunner::Range;
  struct Timing {
    double us = 0;
    double spread = 0;
    uint32_t repetitions = 0;
  };

  Status AwaitWorkers();
  Status DescribeSubject();
  Status OpenFile();
  Status MeasureSolo();
  Result<BucketProfile> SoloOf(uint32_t model, uint32_t bucket);
  Status MeasureGroups();
  Result<Timing> Time(std::span<const Range> ranges);
  Status NoteClock();

  const ServiceSetPtr services_;
  const ProfileOptions& options_;
  const bool gpu_;
  const std::string smi_gpu_;
  Region* const region_;
  RoundRunner* const runner_;
  ProfileData data_;
  std::vector<std::vector<std::vector<uint32_t>>> cuts_;  // [model][bucket]
  std::optional<ProfileWriter> writer_;
  Progress progress_;
  const uint64_t began_ns_ = MonotonicNs();
  uint64_t next_clock_ns_ = 0;
};

Status Profiler::Run() {
  ABACUS_RETURN_IF_ERROR(AwaitWorkers());
  ABACUS_RETURN_IF_ERROR(DescribeSubject());
  ABACUS_RETURN_IF_ERROR(OpenFile());
  Status status = MeasureSolo();
  if (status.ok()) status = MeasureGroups();
  progress_.End();
  fmt::print("{}: {} groups of {} models on {}, {} skipped\n", options_.out.string(), data_.groups.size(),
             data_.models.size(), data_.device, data_.skipped);
  return status;
}

Status Profiler::AwaitWorkers() {
  Status status = runner_->AwaitWorkers([&] {
    size_t ready = 0;
    std::string busy;
    const std::vector<ServicePtr>& services = services_->services();
    for (const ServicePtr& service : services) {
      const WorkerSlot& slot = region_->worker(service->worker);
      if (static_cast<WorkerState>(slot.state.load(std::memory_order_acquire)) == WorkerState::kServing) {
        ++ready;
      } else {
        busy = service->config.name;
      }
    }
    progress_.Show("loading models", static_cast<double>(ready) / static_cast<double>(services.size()), busy);
  });
  progress_.End();
  if (!status.ok()) return status;
  // Again after each restart: cut points follow from measured times.
  cuts_.clear();
  for (const ServicePtr& service : services_->services()) {
    const auto ranges = ReadWorkerRanges(region_->worker(service->worker), service->config.spec.bucket_count());
    if (!ranges) return ranges.error().WithContext(service->config.name);
    auto& cuts = cuts_.emplace_back();
    for (const WorkerRanges& bucket : *ranges) cuts.push_back(bucket.cuts);
  }
  return Status::Ok();
}

Status Profiler::DescribeSubject() {
  data_.seed = options_.seed;
  const std::vector<std::string> driver = gpu_ ? QueryGpu(smi_gpu_, "driver_version") : decltype(driver)();
  data_.driver = driver.empty() ? "none" : driver[0];
  for (const ServicePtr& service : services_->services()) {
    const WorkerSlot& slot = region_->worker(service->worker);
    const ModelSpec& spec = service->config.spec;
    data_.device = LoadText(slot.device_name);
    data_.libraries = LoadText(slot.libraries);
    ModelProfile model;
    model.name = spec.name;
    model.structure = LoadText(slot.structure);
    if (std::any_of(data_.models.begin(), data_.models.end(), [&](const auto& m) { return m.name == spec.name; })) {
      return {StatusCode::kInvalidArgument, "two services run the model " + spec.name + "; profile each model once"};
    }
    for (uint32_t b = 0; b < spec.bucket_count(); ++b) {
      BucketProfile profile;
      profile.batch = spec.bucket(b).batch;
      profile.sequence = spec.bucket(b).sequence;
      profile.operators = cuts_[service->id.value()][b].back();
      model.buckets.push_back(profile);
    }
    data_.models.push_back(std::move(model));
  }
  if (data_.models.size() < 2) {
    return {StatusCode::kInvalidArgument, "one model has nobody to overlap with; configure at least two services"};
  }
  return Status::Ok();
}

Status Profiler::OpenFile() {
  std::error_code error;
  if (options_.fresh || !std::filesystem::exists(options_.out, error)) {
    auto writer = ProfileWriter::Create(options_.out, data_);
    if (!writer) return writer.error();
    writer_ = std::move(*writer);
    return Status::Ok();
  }
  auto existing = ReadProfile(options_.out);
  if (!existing) return existing.error().WithContext("cannot go on with the profile (--fresh starts a new one)");
  if (const Status same = SameSubject(*existing, data_); !same.ok()) {
    return same.WithContext(options_.out.string() + " is of something else; name another file, or use --fresh");
  }
  if (existing->seed != options_.seed) {
    return {StatusCode::kInvalidArgument, options_.out.string() + " was begun with --seed " +
                                              std::to_string(existing->seed) + "; go on with that, or use --fresh"};
  }
  for (const std::string& warning : existing->warnings) LogWarn("{}", warning);
  data_ = std::move(*existing);
  auto writer = ProfileWriter::Append(options_.out);
  if (!writer) return writer.error();
  writer_ = std::move(*writer);
  fmt::print("going on with {}: {} groups are there\n", options_.out.string(), data_.groups.size());
  return Status::Ok();
}

Result<Profiler::Timing> Profiler::Time(std::span<const Range> ranges) {
  std::vector<double> times_us;
  // A round that something else disturbed is long; half of the rounds being close to the fastest shows that most were
  // not. Until then, or kMostTries, it is measured again.
  const auto settled = [&] {
    if (times_us.size() < options_.repetitions) return false;
    const double fastest_us = *std::min_element(times_us.begin(), times_us.end());
    return Median(times_us) <= fastest_us * (1 + kCloseShare) + kCloseUs;
  };
  while (times_us.empty() || (!settled() && times_us.size() < kMostTries * options_.repetitions)) {
    if (runner_->interrupted()) return Error(StatusCode::kShuttingDown, "interrupted");
    if (times_us.empty()) {  // warms up
      if (const Result<uint64_t> warm = runner_->Measure(ranges); !warm) return Error(warm.error());
    }
    const Result<uint64_t> time_ns = runner_->Measure(ranges);
    if (!time_ns) return Error(time_ns.error());
    times_us.push_back(static_cast<double>(*time_ns) * 1e-3);
  }
  const auto [low, high] = std::minmax_element(times_us.begin(), times_us.end());
  const double median_us = Median(times_us);
  return Timing{median_us, (*high - *low) / median_us, static_cast<uint32_t>(times_us.size())};
}

Status Profiler::MeasureSolo() {
  size_t total = 0, done = 0;
  for (const ModelProfile& model : data_.models) total += model.buckets.size();
  for (uint32_t m = 0; m < data_.models.size(); ++m) {
    for (uint32_t b = 0; b < data_.models[m].buckets.size(); ++b, ++done) {
      BucketProfile& bucket = data_.models[m].buckets[b];
      if (bucket.measured()) continue;
      progress_.Show("solo times", static_cast<double>(done) / static_cast<double>(total), data_.models[m].name);
      Result<BucketProfile> measured = SoloOf(m, b);
      for (int tries = 1; !measured && measured.error().code() == StatusCode::kWorkerFailed && tries < kSoloTries;
           ++tries) {
        progress_.End();
        LogWarn("{}; measuring again", measured.error().message());
        ABACUS_RETURN_IF_ERROR(AwaitWorkers());
        measured = SoloOf(m, b);
      }
      if (!measured) return measured.error();
      bucket = std::move(*measured);
      ABACUS_RETURN_IF_ERROR(writer_->Solo(m, b, bucket));
      ABACUS_RETURN_IF_ERROR(NoteClock());
    }
  }
  progress_.Show("solo times", 1, "");
  return Status::Ok();
}

Result<BucketProfile> Profiler::SoloOf(uint32_t model, uint32_t bucket) {
  const std::vector<uint32_t>& cuts = cuts_[model][bucket];
  BucketProfile profile = data_.models[model].buckets[bucket];
  profile.operators_at = cuts;
  profile.us.assign(cuts.size(), 0);
  for (size_t i = 1; i < cuts.size(); ++i) {
    const Range prefix = {ServiceId(model), bucket, 0, cuts[i]};
    const Result<Timing> timing = Time({&prefix, 1});
    if (!timing) return Error(timing.error());
    profile.us[i] = timing->us;
  }
  MakeAscending(&profile.us);
  // What a round costs beyond its operators: a rest of the model, measured, against the difference of its prefixes.
  std::vector<double> costs_us;
  for (const size_t quarter : {1, 2, 3}) {
    const size_t i = (cuts.size() - 1) * quarter / 4;
    if (i == 0) continue;
    const Range rest = {ServiceId(model), bucket, cuts[i], cuts.back()};
    const Result<Timing> timing = Time({&rest, 1});
    if (!timing) return Error(timing.error());
    costs_us.push_back(timing->us - (profile.us.back() - profile.us[i]));
  }
  if (!costs_us.empty()) profile.us[0] = std::clamp(Median(costs_us), 0.0, profile.us[1]);
  return profile;
}

Status Profiler::MeasureGroups() {
  const uint64_t start_ns = MonotonicNs();
  const double budget_ns = options_.minutes * 60e9;
  uint64_t index = data_.next_index();
  for (;; ++index) {
    const double used = budget_ns > 0 ? static_cast<double>(MonotonicNs() - start_ns) / budget_ns : 0;
    const double made =
        options_.groups > 0 ? static_cast<double>(data_.groups.size()) / static_cast<double>(options_.groups) : 0;
    progress_.Show("groups", std::max(used, made),
                   fmt::format("{} measured, {} skipped", data_.groups.size(), data_.skipped));
    if (used >= 1 || made >= 1) return Status::Ok();
    GroupSample sample;
    sample.index = index;
    sample.ranges = SampleGroup(data_, cuts_, options_.seed, index);
    std::vector<Range> ranges;
    for (const ProfiledRange& range : sample.ranges) {
      ranges.push_back({ServiceId(range.model), range.bucket, range.first, range.last});
    }
    const Result<Timing> timing = Time(ranges);
    if (!timing && timing.error().code() == StatusCode::kWorkerFailed) {
      ++data_.skipped;
      progress_.End();
      LogWarn("group {} is skipped: {}", index, timing.error().message());
      ABACUS_RETURN_IF_ERROR(writer_->Skip(index, timing.error().message()));
      ABACUS_RETURN_IF_ERROR(AwaitWorkers());
      continue;
    }
    if (!timing) return timing.error();
    sample.us = timing->us;
    sample.spread = timing->spread;
    sample.repetitions = timing->repetitions;
    ABACUS_RETURN_IF_ERROR(writer_->Group(sample));
    data_.groups.push_back(std::move(sample));
    ABACUS_RETURN_IF_ERROR(NoteClock());
  }
}

Status Profiler::NoteClock() {
  const uint64_t now_ns = MonotonicNs();
  if (!gpu_ || now_ns < next_clock_ns_) return Status::Ok();
  next_clock_ns_ = now_ns + kClockEveryNs;
  const std::vector<std::string> values = QueryGpu(smi_gpu_, "clocks.sm,clocks.mem,temperature.gpu");
  if (values.size() != 3) return Status::Ok();
  const auto number = [](const std::string& text) { return std::strtod(text.c_str(), nullptr); };
  return writer_->Clock(
      {static_cast<double>(now_ns - began_ns_) * 1e-9, number(values[0]), number(values[1]), number(values[2])});
}

}  // namespace

Status RunProfiler(Config config, const ProfileOptions& options) {
  // Models are measured together, so all of them on one GPU: the first.
  config.worker.gpus.resize(1);
  for (ServiceConfig& service : config.services) service.gpu = config.worker.gpus.front();
  RunLock lock;
  ABACUS_RETURN_IF_ERROR(lock.Acquire(config.server.name));
  auto region = Region::Create(config.server.name, {config.services.size(), 1}, kArenaBytes);
  if (!region) return region.error();
  ABACUS_RETURN_IF_ERROR((*region)->ReserveArena());
  StoreText((*region)->header().policy, "profile");

  const int signal_fd = BlockSignals();
  signal(SIGUSR1, SIG_IGN);  // asks a controller for its trace
  const WorkerSupervisor::Settings settings = WorkerSupervisor::SettingsFor(config);
  const ServiceSetPtr services = MakeServiceSet(config, HoldModels(config, settings.needs_model_files()));
  WorkerSupervisor supervisor(settings, services, region->get(), FindMpsDaemons(lock.directory(), 1));
  RoundRunner runner(services, config.worker.round_timeout_ns, config.scheduler.spin_us > 0, region->get(), &supervisor,
                     signal_fd);
  supervisor.SetListener(&runner);
  supervisor.StartAll();
  Profiler profiler(config, services, options, settings.device == DeviceKind::kCuda, region->get(), &runner);
  Status status = profiler.Run();
  Gate(&(*region)->lane(LaneId()).gate).OpenForGood();  // a worker that holds a range back would not see the stop
  supervisor.StopAll(kStopTimeoutNs);
  close(signal_fd);
  return status;
}

}  // namespace abacus
