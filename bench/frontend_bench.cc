// frontend: queries per second through the whole path (sockets, admission, scheduler, rings, fake workers, reply)
// against a bare ROUTER that echoes the very same frames. Both servers run in processes of their own, with one ZeroMQ
// I/O thread each, and are driven by the same clients in the same run; they alternate, and the ratio of medians counts.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <zmq.hpp>

#include "base/clock.h"
#include "bench/bench.h"
#include "client/protocol.h"
#include "tests/support/controller_process.h"

namespace abacus::bench {
namespace {

constexpr int64_t kPayloadElements = 3 * 224 * 224;  // float32: 602,112 bytes

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
void Drive(const FrontendOptions& options, const std::string& endpoint, int index, bool check, int window,
           std::atomic<int>* phase, std::atomic<uint64_t>* replies, std::atomic<uint64_t>* bad) {
  std::string payload;  // outlives the context, whose I/O thread reads it
  zmq::context_t context(1);
  zmq::socket_t dealer(context, zmq::socket_type::dealer);
  dealer.set(zmq::sockopt::linger, 0);
  dealer.set(zmq::sockopt::sndhwm, 0);
  dealer.set(zmq::sockopt::rcvhwm, 0);
  dealer.set(zmq::sockopt::rcvtimeo, 5000);
  dealer.connect(endpoint);
  protocol::Request request;
  request.model = "fake-" + std::to_string(index % options.services);
  request.qos_us = 60'000'000;
  if (options.payload) {
    request.inputs.push_back({"x", DType::kFloat32, Shape{1, kPayloadElements}});
    payload.assign(kPayloadElements * 4, static_cast<char>(index));
  } else {
    request.synthetic = true;
    request.batch = 1;
  }
  std::string header;
  uint64_t next_id = 1;
  const auto send = [&] {
    request.id = next_id++;
    protocol::EncodeRequest(request, &header);
    dealer.send(zmq::buffer(header), options.payload ? zmq::send_flags::sndmore : zmq::send_flags::none);
    if (options.payload)
      dealer.send(zmq::message_t(payload.data(), payload.size(), nullptr, nullptr), zmq::send_flags::none);
  };
  for (int i = 0; i < window; ++i) send();
  zmq::message_t frame;
  protocol::Reply reply;
  while (phase->load(std::memory_order_relaxed) != 2) {
    if (!dealer.recv(frame)) {
      bad->fetch_add(1);
      return;
    }
    if (check) {
      const std::span bytes(static_cast<const std::byte*>(frame.data()), frame.size());
      if (!protocol::DecodeReply(bytes, &reply) || reply.status != StatusCode::kOk) bad->fetch_add(1);
    }
    while (frame.more()) {
      if (!dealer.recv(frame)) return;
    }
    if (phase->load(std::memory_order_relaxed) == 1) replies->fetch_add(1, std::memory_order_relaxed);
    send();
  }
}

// Queries per second at `endpoint`. *bad counts replies that were not OK (only where the server is Abacus).
double Measure(const FrontendOptions& options, const std::string& endpoint, bool check, uint64_t* bad_total) {
  const int window = options.window > 0 ? options.window : options.payload ? 8 : 64;
  std::atomic<int> phase{0};  // 0 warm-up, 1 measured, 2 stop
  std::atomic<uint64_t> replies{0}, bad{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < options.clients; ++i) {
    threads.emplace_back([&, i] { Drive(options, endpoint, i, check, window, &phase, &replies, &bad); });
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

test::ControllerProcess::Options ServerOptions(const FrontendOptions& options) {
  test::ControllerProcess::Options server;
  server.bin_dir = BinDir();
  server.server = "arena_mib = 1024\nlog_level = \"warn\"\n";
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

}  // namespace

int RunFrontend(const FrontendOptions& options) {
  const EchoServer echo;
  test::ControllerProcess controller(ServerOptions(options));
  if (!controller.error().empty()) {
    fmt::print(stderr, "abacus-bench frontend: {}\n", controller.error());
    return 1;
  }
  std::vector<double> echo_qps, abacus_qps;
  uint64_t bad = 0, ignored = 0;
  for (int round = 0; round < options.rounds; ++round) {
    echo_qps.push_back(Measure(options, echo.endpoint(), false, &ignored));
    abacus_qps.push_back(Measure(options, controller.tcp(), true, &bad));
    fmt::print(stderr, "round {}: echo {:.0f}/s, abacus {:.0f}/s\n", round + 1, echo_qps.back(), abacus_qps.back());
  }
  std::sort(echo_qps.begin(), echo_qps.end());
  std::sort(abacus_qps.begin(), abacus_qps.end());
  const double echo_median = echo_qps[echo_qps.size() / 2], abacus_median = abacus_qps[abacus_qps.size() / 2];
  const nlohmann::json result = {{"benchmark", "frontend"},
                                 {"payload_bytes", options.payload ? kPayloadElements * 4 : 0},
                                 {"policy", options.policy},
                                 {"clients", options.clients},
                                 {"services", options.services},
                                 {"rounds", options.rounds},
                                 {"echo_qps", echo_median},
                                 {"abacus_qps", abacus_median},
                                 {"ratio", abacus_median / echo_median},
                                 {"bad_replies", bad}};
  fmt::print("{:>14} {:>12} {:>12} {:>8} {:>6}\n", "payload bytes", "echo q/s", "abacus q/s", "ratio", "bad");
  fmt::print("{:>14} {:>12.0f} {:>12.0f} {:>8.3f} {:>6}\n", options.payload ? kPayloadElements * 4 : 0, echo_median,
             abacus_median, abacus_median / echo_median, bad);
  return WriteJson(options.json, result) && bad == 0 ? 0 : 1;
}

}  // namespace abacus::bench
