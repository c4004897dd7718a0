// ring: round trip of one command to a worker process and its completion back, through the rings of a real segment.
// Both processes are pinned to a core each and spin; nothing else happens in between.
#include <fmt/format.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "bench/bench.h"
#include "shm/doorbell.h"
#include "shm/region.h"

namespace abacus::bench {
namespace {

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::vector<int> cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  }
  return cpus;
}

void Pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

// The worker's side: answers every command until told to stop.
void Answer(WorkerSlot& slot, Doorbell controller_bell) {
  for (;;) {
    Command command;
    while (!slot.commands.TryPop(&command)) CpuRelax();
    if (command.kind == Command::kStop) return;
    Completion completion;
    completion.job_id = command.job_id;
    completion.first = command.first;
    completion.last = command.last;
    while (!slot.completions.TryPush(completion)) CpuRelax();
    controller_bell.Ring();
  }
}

}  // namespace

int RunRing(const RingOptions& options) {
  const std::vector<int> cpus = options.cpus.empty() ? AllowedCpus() : options.cpus;
  if (cpus.size() < 2) {
    fmt::print(stderr, "abacus-bench ring: needs two CPUs, --cpus A,B names them\n");
    return 1;
  }
  auto region = Region::Create("bench-" + std::to_string(getpid()), {1, 1}, 1 << 20);
  if (!region) {
    fmt::print(stderr, "abacus-bench ring: {}\n", region.error().message());
    return 1;
  }
  WorkerSlot& slot = (*region)->worker(WorkerId(0));
  Doorbell command_bell(&slot.command_bell), controller_bell(&(*region)->header().controller_bell);
  const pid_t child = fork();
  if (child == 0) {
    Pin(cpus[1]);
    Answer(slot, controller_bell);
    _exit(0);
  }
  Pin(cpus[0]);
  std::vector<uint64_t> samples_ns;
  samples_ns.reserve(options.round_trips);
  const uint64_t warm_up = std::max<uint64_t>(1000, options.round_trips / 10);
  Command command;
  command.kind = Command::kRun;
  for (uint64_t i = 0; i < warm_up + options.round_trips; ++i) {
    command.job_id = i;
    const uint64_t begin_ns = MonotonicNs();
    slot.commands.TryPush(command);
    command_bell.Ring();
    Completion completion;
    while (!slot.completions.TryPop(&completion)) CpuRelax();
    const uint64_t end_ns = MonotonicNs();
    if (i >= warm_up) samples_ns.push_back(end_ns - begin_ns);
  }
  command.kind = Command::kStop;
  slot.commands.TryPush(command);
  waitpid(child, nullptr, 0);

  std::sort(samples_ns.begin(), samples_ns.end());
  const nlohmann::json result = {{"benchmark", "ring"},
                                 {"round_trips", options.round_trips},
                                 {"cpus", {cpus[0], cpus[1]}},
                                 {"median_ns", Quantile(samples_ns, 0.5)},
                                 {"p90_ns", Quantile(samples_ns, 0.9)},
                                 {"p99_ns", Quantile(samples_ns, 0.99)},
                                 {"p999_ns", Quantile(samples_ns, 0.999)},
                                 {"max_ns", samples_ns.back()}};
  fmt::print("command -> completion round trip, CPUs {} and {}, {} round trips\n", cpus[0], cpus[1],
             options.round_trips);
  fmt::print("{:>10} {:>10} {:>10} {:>10} {:>10}\n", "median us", "p90 us", "p99 us", "p99.9 us", "max us");
  fmt::print("{:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f}\n", Quantile(samples_ns, 0.5) * 1e-3,
             Quantile(samples_ns, 0.9) * 1e-3, Quantile(samples_ns, 0.99) * 1e-3, Quantile(samples_ns, 0.999) * 1e-3,
             static_cast<double>(samples_ns.back()) * 1e-3);
  return WriteJson(options.json, result) ? 0 : 1;
}

}  // namespace abacus::bench
