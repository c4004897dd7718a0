// jitter: how long threads that never sleep are held up on this machine, by its kernel or by what runs beside it.
#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "bench/bench.h"
#include "shm/clock.h"

namespace abacus::bench {
namespace {

constexpr std::array<uint64_t, 4> kLongerThanNs = {50 * kNsPerUs, 200 * kNsPerUs, kNsPerMs, 3 * kNsPerMs};

struct JitterOptions {
  unsigned threads = std::max(1u, std::thread::hardware_concurrency() * 3 / 4);
  double seconds = 3;
  std::string json;
};

struct Pauses {
  std::array<uint64_t, kLongerThanNs.size()> counts{};
  uint64_t longest_ns = 0;
  uint64_t total_ns = 0;  // of those that are counted
};

// A thread that does nothing but read the clock sees a pause as a step.
Pauses Watch(uint64_t duration_ns) {
  Pauses pauses;
  uint64_t before_ns = MonotonicNs();
  const uint64_t until_ns = before_ns + duration_ns;
  while (before_ns < until_ns) {
    const uint64_t now_ns = MonotonicNs();
    const uint64_t pause_ns = now_ns - before_ns;
    before_ns = now_ns;
    if (pause_ns <= kLongerThanNs[0]) continue;
    for (size_t i = 0; i < kLongerThanNs.size(); ++i) pauses.counts[i] += pause_ns > kLongerThanNs[i] ? 1 : 0;
    pauses.longest_ns = std::max(pauses.longest_ns, pause_ns);
    pauses.total_ns += pause_ns;
  }
  return pauses;
}

int RunJitter(const JitterOptions& options) {
  std::vector<Pauses> seen(options.threads);
  {
    const auto duration_ns = static_cast<uint64_t>(options.seconds * static_cast<double>(kNsPerSecond));
    std::vector<std::jthread> threads;
    for (Pauses& pauses : seen) threads.emplace_back([&pauses, duration_ns] { pauses = Watch(duration_ns); });
  }
  Pauses all;
  for (const Pauses& pauses : seen) {
    for (size_t i = 0; i < all.counts.size(); ++i) all.counts[i] += pauses.counts[i];
    all.longest_ns = std::max(all.longest_ns, pauses.longest_ns);
    all.total_ns += pauses.total_ns;
  }
  const double thread_seconds = options.seconds * options.threads;
  nlohmann::json result = {{"benchmark", "jitter"},
                           {"threads", options.threads},
                           {"seconds", options.seconds},
                           {"longest_us", static_cast<double>(all.longest_ns) / kNsPerUs},
                           {"lost_share", static_cast<double>(all.total_ns) / (thread_seconds * kNsPerSecond)}};
  fmt::print("pauses of {} spinning threads in {} s, each second of a thread\n", options.threads, options.seconds);
  for (size_t i = 0; i < kLongerThanNs.size(); ++i) {
    const double rate = static_cast<double>(all.counts[i]) / thread_seconds;
    fmt::print("  longer than {:>4} us: {:.3f}\n", kLongerThanNs[i] / kNsPerUs, rate);
    result["per_thread_second"][std::to_string(kLongerThanNs[i] / kNsPerUs) + "_us"] = rate;
  }
  fmt::print("longest {:.0f} us; {:.3f} % of the time lost\n", result["longest_us"].get<double>(),
             100 * result["lost_share"].get<double>());
  return WriteJson(options.json, result) ? 0 : 1;
}

}  // namespace

void AddJitterBench(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<JitterOptions>();
  CLI::App* jitter = app.add_subcommand("jitter", "How long threads are held up on this machine");
  jitter->add_option("--threads", options->threads, "Threads that spin (default: three quarters of the CPUs)")
      ->check(CLI::Range(1u, 1024u));
  jitter->add_option("--seconds", options->seconds, "How long")->check(CLI::Range(0.01, 3600.0));
  jitter->add_option("--json", options->json, "Write the figures to this file");
  jitter->callback([options, exit_code] { *exit_code = RunJitter(*options); });
}

}  // namespace abacus::bench
