// abacus-fake-worker: a worker without LibTorch whose models only take time. See fake_runtime.h.
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#include "worker/app/command_line.h"
#include "worker/runtime/fake_runtime.h"
#include "worker/serve/serve.h"

namespace {

abacus::Result<std::unique_ptr<abacus::ModelRuntime>> MakeRuntime(const abacus::ModelSpec& spec,
                                                                  const abacus::ServeOptions& /*options*/,
                                                                  const abacus::LoadHooks& hooks) {
  std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int64_t>(spec.fake.load_us)));
  // Its times are scripted, but it takes its turn as a worker that has nothing to take over would.
  if (hooks.known.empty()) hooks.await_turn();
  return std::unique_ptr<abacus::ModelRuntime>(std::make_unique<abacus::FakeRuntime>(spec));
}

}  // namespace

int main(int argc, char** argv) {
  abacus::WorkerCommands commands;
  commands.description = "Abacus worker that replays timings instead of running a model";
  commands.serve_description = "Serve one model to a controller";
  commands.serve = [](const abacus::ServeOptions& options) { return abacus::Serve(options, MakeRuntime); };
  return abacus::RunCommandLine(argc, argv, commands);
}
