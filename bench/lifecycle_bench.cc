// lifecycle: how fast the controller is up, and how fast the death of a worker is answered and repaired. Workers are
// fake, so the figures are those of the controller: a real worker adds the time that its model takes to load.
#include <fmt/format.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <zmq.hpp>

#include "base/clock.h"
#include "bench/bench.h"
#include "client/protocol.h"
#include "tests/support/controller_process.h"

namespace abacus::bench {
namespace {

test::ControllerProcess::Options Server(bool wait_ready) {
  test::ControllerProcess::Options server;
  server.bin_dir = BinDir();
  server.wait_ready = wait_ready;
  server.server = "log_level = \"warn\"\n";
  server.config =
      "[scheduler]\npolicy = \"free\"\nabandon = false\n[worker]\ndevice = \"fake\"\nmax_restarts_per_minute = 600\n"
      "[[service]]\nname = \"slow\"\nmodel = \"slow.toml\"\n";
  server.files["slow.toml"] =
      "name = \"slow\"\nfile = \"none.pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\", 4]\n"
      "[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\", 4]\n[buckets]\nbatch = [1]\n"
      "[fake]\nbase_us = 1000000.0\n";
  return server;
}

// A DEALER that asks one thing at a time.
class Asker {
 public:
  explicit Asker(const std::string& endpoint) : dealer_(context_, zmq::socket_type::dealer) {
    dealer_.set(zmq::sockopt::linger, 0);
    dealer_.set(zmq::sockopt::rcvtimeo, 10'000);
    dealer_.set(zmq::sockopt::reconnect_ivl, 1);  // ms; the default of 100 would be most of what is measured
    dealer_.connect(endpoint);
  }
  void Send(const protocol::Request& request) {
    std::string header;
    protocol::EncodeRequest(request, &header);
    dealer_.send(zmq::buffer(header), zmq::send_flags::none);
  }
  bool Receive(protocol::Reply* reply) {
    zmq::message_t frame;
    if (!dealer_.recv(frame)) return false;
    return protocol::DecodeReply({static_cast<const std::byte*>(frame.data()), frame.size()}, reply).has_value();
  }

 private:
  zmq::context_t context_{1};
  zmq::socket_t dealer_;
};

// From exec of the controller until it has answered a health request; its workers may still be loading.
uint64_t StartUpNs() {
  const uint64_t begin_ns = MonotonicNs();
  test::ControllerProcess controller(Server(false));
  Asker asker(controller.ipc());  // ZeroMQ tries until the socket exists
  protocol::Request request;
  request.type = protocol::RequestType::kHealth;
  asker.Send(request);
  protocol::Reply reply;
  return asker.Receive(&reply) ? MonotonicNs() - begin_ns : 0;
}

struct Repair {
  uint64_t answered_ns = 0;  // SIGKILL until the query in flight was answered WORKER_FAILED
  uint64_t repaired_ns = 0;  // SIGKILL until the new worker serves
};

bool MeasureRepair(test::ControllerProcess* controller, Asker* asker, uint64_t id, Repair* repair) {
  protocol::Request request;
  request.id = id;
  request.model = "slow";
  request.synthetic = true;
  request.batch = 1;
  asker->Send(request);
  const WorkerSlot& slot = controller->slot(0);
  if (!test::Eventually(5000, [&] { return controller->stats(0).running.load() == 1; })) return false;
  const pid_t victim = controller->worker_pid(0);
  const uint64_t begin_ns = MonotonicNs();
  kill(victim, SIGKILL);
  protocol::Reply reply;
  if (!asker->Receive(&reply) || reply.status != StatusCode::kWorkerFailed) return false;
  repair->answered_ns = MonotonicNs() - begin_ns;
  const bool back = test::Eventually(10'000, [&] {
    return controller->worker_pid(0) != victim && slot.state.load() == static_cast<uint32_t>(WorkerState::kServing);
  });
  repair->repaired_ns = MonotonicNs() - begin_ns;
  return back;
}

}  // namespace

int RunLifecycle(const LifecycleOptions& options) {
  std::vector<uint64_t> start_up, answered, repaired;
  for (int i = 0; i < options.repetitions; ++i) {
    const uint64_t ns = StartUpNs();
    if (ns == 0) {
      fmt::print(stderr, "abacus-bench lifecycle: the controller did not come up\n");
      return 1;
    }
    start_up.push_back(ns);
  }
  test::ControllerProcess controller(Server(true));
  if (!controller.error().empty()) {
    fmt::print(stderr, "abacus-bench lifecycle: {}\n", controller.error());
    return 1;
  }
  Asker asker(controller.ipc());
  for (int i = 0; i < options.repetitions; ++i) {
    Repair repair;
    if (!MeasureRepair(&controller, &asker, static_cast<uint64_t>(i) + 1, &repair)) {
      fmt::print(stderr, "abacus-bench lifecycle: a killed worker was not answered or not replaced\n");
      return 1;
    }
    answered.push_back(repair.answered_ns);
    repaired.push_back(repair.repaired_ns);
  }
  nlohmann::json result = {{"benchmark", "lifecycle"}, {"repetitions", options.repetitions}};
  fmt::print("{:<52} {:>10} {:>10}\n", "", "median ms", "max ms");
  const auto report = [&](const char* key, const char* text, std::vector<uint64_t>& samples_ns) {
    std::sort(samples_ns.begin(), samples_ns.end());
    const double median_ms = static_cast<double>(Quantile(samples_ns, 0.5)) * 1e-6;
    const double max_ms = static_cast<double>(samples_ns.back()) * 1e-6;
    result[key] = {{"median_ms", median_ms}, {"max_ms", max_ms}};
    fmt::print("{:<52} {:>10.2f} {:>10.2f}\n", text, median_ms, max_ms);
  };
  report("start_up", "controller start until it answers", start_up);
  report("death_answered", "worker killed until its query is answered", answered);
  report("worker_replaced", "worker killed until a new one serves (fake model)", repaired);
  return WriteJson(options.json, result) ? 0 : 1;
}

}  // namespace abacus::bench
