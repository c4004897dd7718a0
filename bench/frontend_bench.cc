// frontend: queries per second through the whole path (sockets, admission, scheduler, rings, fake workers, reply)
// against a bare ROUTER that echoes the very same frames. Both servers run in processes of their own, with one ZeroMQ
// I/O thread each, and are driven by the same clients in the same run; they alternate, and the ratio of medians counts.
// With payload, tensors come and go in frames and in leased memory, each with several numbers of intake threads.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <zmq.hpp>

#include "base/clock.h"
#include "bench/bench.h"
#include "client/leased_region.h"
#include "client/protocol.h"
#include "tests/support/controller_process.h"

namespace abacus::bench {
namespace {

constexpr int64_t kPayloadElements = 3 * 224 * 224;       // float32: 602,112 bytes
constexpr uint64_t kPayloadBytes = kPayloadElements * 4;  // a multiple of 64
constexpr std::chrono::seconds kLeaseTimeout{5};

// One way through the controller.
struct Case {
  bool leases = false;
  int intake_threads = 1;
  std::vector<double> qps = {};
};

// Queries per second of which server, and how they carry their tensors.
struct Target {
  std::string endpoint;
  bool check = false;      // replies have to be OK
  std::string lease_path;  // empty: tensors are frames
};

// A client's region: the inputs of its outstanding queries, then their outputs.
struct LeasedPlaces {
  std::shared_ptr<LeasedRegion> region;
  uint64_t window = 0;

  uint64_t input(uint64_t place) const { return place * kPayloadBytes; }
  uint64_t output(uint64_t place) const { return (window + place) * kPayloadBytes; }
  // Its last byte: cleared before, and the input's after a query.
  std::byte& end(uint64_t place) const { return region->bytes()[output(place) + kPayloadBytes - 1]; }
};

// Echoes whole messages until it is killed.
[[noreturn]] void Echo(int report_fd) {
  zmq::context_t context(1);
  zmq::socket_t router(context, zmq::socket_type::router);
  router.set(zmq::sockopt::sndhwm, 0);
  router.bind("tcp://127.0.0.1:*");
  const std::string endpoint = router.get(zmq::sockopt::last_endpoint);
  if (write(report_fd, endpoint.data(), endpoint.size()) < 0) _exit(1);
  close(report_fd);
  for (;;) {
    zmq::message_t frame;
    do {
      if (!router.recv(frame)) continue;
      const bool more = frame.more();
      router.send(frame, more ? zmq::send_flags::sndmore : zmq::send_flags::none);
      if (!more) break;
    } while (true);
  }
}

// A forked process; ended with its object.
class EchoServer {
 public:
  EchoServer() {
    int fds[2];
    if (pipe(fds) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      close(fds[0]);
      Echo(fds[1]);
    }
    close(fds[1]);
    char buffer[256];
    const ssize_t got = read(fds[0], buffer, sizeof(buffer));
    if (got > 0) endpoint_.assign(buffer, static_cast<size_t>(got));
    close(fds[0]);
    while (!endpoint_.empty() && endpoint_.back() == '\0') endpoint_.pop_back();
  }
  ~EchoServer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  const std::string& endpoint() const { return endpoint_; }

 private:
  pid_t pid_ = -1;
  std::string endpoint_;
};

// One client: keeps `window` requests outstanding and counts replies until told to stop.
void Drive(const FrontendOptions& options, const Target& target, int index, int window, std::atomic<int>* phase,
           std::atomic<uint64_t>* replies, std::atomic<uint64_t>* bad) {
  std::string payload;  // outlives the context, whose I/O thread reads it
  zmq::context_t context(1);
  zmq::socket_t dealer(context, zmq::socket_type::dealer);
  dealer.set(zmq::sockopt::linger, 0);
  dealer.set(zmq::sockopt::sndhwm, 0);
  dealer.set(zmq::sockopt::rcvhwm, 0);
  dealer.set(zmq::sockopt::rcvtimeo, 5000);
  dealer.connect(target.endpoint);
  protocol::Request request;
  request.model = "fake-" + std::to_string(index % options.services);
  request.qos_us = 60'000'000;
  const auto fill = static_cast<std::byte>(index + 1);
  LeasedPlaces places{nullptr, static_cast<uint64_t>(window)};
  const bool frames = options.payload && target.lease_path.empty();
  if (options.payload) {
    request.inputs.push_back({"x", DType::kFloat32, Shape{1, kPayloadElements}});
  } else {
    request.synthetic = true;
    request.batch = 1;
  }
  if (frames) payload.assign(kPayloadBytes, static_cast<char>(fill));
  if (options.payload && !frames) {
    auto region = LeasedRegion::Open(target.lease_path, 2 * places.window * kPayloadBytes, 0, kLeaseTimeout);
    if (!region) {
      fmt::print(stderr, "abacus-bench frontend: {}\n", region.error().message());
      bad->fetch_add(1);
      return;
    }
    places.region = std::move(*region);
    std::fill_n(places.region->bytes().begin(), places.window * kPayloadBytes, fill);
    request.inputs[0].region = request.outputs_region = places.region->id();
    request.outputs_bytes = kPayloadBytes;
  }
  std::string header;
  uint64_t turn = 0;
  const auto send = [&](uint64_t place) {  // the place is part of the id, and free again with the reply
    request.id = turn++ * places.window + place;
    if (places.region != nullptr) {
      request.inputs[0].offset = places.input(place);
      request.outputs_offset = places.output(place);
      places.end(place) = std::byte{};
    }
    protocol::EncodeRequest(request, &header);
    dealer.send(zmq::buffer(header), frames ? zmq::send_flags::sndmore : zmq::send_flags::none);
    if (frames) dealer.send(zmq::message_t(payload.data(), payload.size(), nullptr, nullptr), zmq::send_flags::none);
  };
  for (uint64_t place = 0; place < places.window; ++place) send(place);
  zmq::message_t frame;
  protocol::Reply reply;
  while (phase->load(std::memory_order_relaxed) != 2) {
    if (!dealer.recv(frame)) {
      bad->fetch_add(1);
      return;
    }
    if (target.check) {
      const std::span bytes(static_cast<const std::byte*>(frame.data()), frame.size());
      if (!protocol::DecodeReply(bytes, &reply) || reply.status != StatusCode::kOk ||
          (places.region != nullptr && places.end(reply.id % places.window) != fill)) {
        bad->fetch_add(1);
      }
    }
    while (frame.more()) {
      if (!dealer.recv(frame)) return;
    }
    if (phase->load(std::memory_order_relaxed) == 1) replies->fetch_add(1, std::memory_order_relaxed);
    send(reply.id % places.window);
  }
}

// Queries per second. *bad_total counts replies that were not OK, and what came back wrong in leased memory.
double Measure(const FrontendOptions& options, const Target& target, uint64_t* bad_total) {
  const int window = options.window > 0 ? options.window : options.payload ? 8 : 64;
  std::atomic<int> phase{0};  // 0 warm-up, 1 measured, 2 stop
  std::atomic<uint64_t> replies{0}, bad{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < options.clients; ++i) {
    threads.emplace_back([&, i] { Drive(options, target, i, window, &phase, &replies, &bad); });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const uint64_t begin_ns = MonotonicNs();
  phase = 1;
  std::this_thread::sleep_for(std::chrono::duration<double>(options.seconds));
  const uint64_t counted = replies.load();
  const uint64_t end_ns = MonotonicNs();
  phase = 2;
  threads.clear();
  *bad_total += bad.load();
  return static_cast<double>(counted) / (static_cast<double>(end_ns - begin_ns) * 1e-9);
}

test::ControllerProcess::Options ServerOptions(const FrontendOptions& options, const Case& way) {
  test::ControllerProcess::Options server;
  server.bin_dir = BinDir();
  server.server =
      "arena_mib = 1024\nlog_level = \"warn\"\nintake_threads = " + std::to_string(way.intake_threads) + "\n";
  server.config = "[scheduler]\npolicy = \"" + options.policy + "\"\nabandon = false\n[worker]\ndevice = \"fake\"\n";
  const std::string dim = std::to_string(kPayloadElements);
  for (int i = 0; i < options.services; ++i) {
    const std::string name = "fake-" + std::to_string(i);
    server.config += "[[service]]\nname = \"" + name + "\"\nmodel = \"" + name + ".toml\"\n";
    server.files[name + ".toml"] = "name = \"" + name +
                                   "\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = "
                                   "[\"batch\", " +
                                   dim + "]\n[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\", " +
                                   dim + "]\n[buckets]\nbatch = [1]\n[fake]\noperators = 1\nbase_us = 0.0\n";
  }
  return server;
}

// Without payload nothing is copied, so there is one way.
std::vector<Case> CasesOf(const FrontendOptions& options) {
  if (!options.payload) return {{}};
  std::vector<Case> cases;
  for (const bool leases : {false, true}) {
    for (const int threads : {1, 2, 4}) cases.push_back({leases, threads});
  }
  return cases;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A controller of its own for each measurement. False: it does not run.
bool MeasureCase(const FrontendOptions& options, Case* way, uint64_t* bad) {
  test::ControllerProcess controller(ServerOptions(options, *way));
  if (!controller.error().empty()) {
    fmt::print(stderr, "abacus-bench frontend: {}\n", controller.error());
    return false;
  }
  Target target{controller.tcp(), /*check=*/true, ""};
  if (way->leases) target.lease_path = (controller.directory() / controller.name() / "lease.sock").string();
  way->qps.push_back(Measure(options, target, bad));
  return true;
}

}  // namespace

int RunFrontend(const FrontendOptions& options) {
  const EchoServer echo;
  std::vector<Case> cases = CasesOf(options);
  std::vector<double> echo_qps;
  uint64_t bad = 0, ignored = 0;
  for (int round = 0; round < options.rounds; ++round) {
    echo_qps.push_back(Measure(options, {echo.endpoint(), /*check=*/false, ""}, &ignored));
    std::string line = fmt::format("round {}: echo {:.0f}/s", round + 1, echo_qps.back());
    for (Case& way : cases) {
      if (!MeasureCase(options, &way, &bad)) return 1;
      line += fmt::format(", {} {} {:.0f}/s", way.leases ? "leases" : "frames", way.intake_threads, way.qps.back());
    }
    fmt::print(stderr, "{}\n", line);
  }
  const double echo_median = Median(echo_qps);
  const uint64_t payload_bytes = options.payload ? kPayloadBytes : 0;
  nlohmann::json ways = nlohmann::json::array();
  fmt::print("{:>14} {:>8} {:>8} {:>12} {:>12} {:>8}\n", "payload bytes", "way", "threads", "echo q/s", "abacus q/s",
             "ratio");
  for (const Case& way : cases) {
    const double qps = Median(way.qps);
    const char* const name = !options.payload ? "none" : way.leases ? "leases" : "frames";
    fmt::print("{:>14} {:>8} {:>8} {:>12.0f} {:>12.0f} {:>8.3f}\n", payload_bytes, name, way.intake_threads,
               echo_median, qps, qps / echo_median);
    ways.push_back({{"payload", name},
                    {"intake_threads", way.intake_threads},
                    {"qps", qps},
                    {"runs_qps", way.qps},
                    {"ratio", qps / echo_median}});
  }
  fmt::print("bad replies: {}\n", bad);
  const double first = Median(cases.front().qps);
  const nlohmann::json result = {{"benchmark", "frontend"},
                                 {"payload_bytes", payload_bytes},
                                 {"policy", options.policy},
                                 {"clients", options.clients},
                                 {"services", options.services},
                                 {"rounds", options.rounds},
                                 {"echo_qps", echo_median},
                                 {"abacus_qps", first},
                                 {"ratio", first / echo_median},
                                 {"ways", ways},
                                 {"bad_replies", bad}};
  return WriteJson(options.json, result) && bad == 0 ? 0 : 1;
}

}  // namespace abacus::bench
