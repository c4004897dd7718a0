// abacus-fake-worker: a worker without LibTorch whose models only take time. See fake_runtime.h.
#include <CLI/CLI.hpp>
#include <chrono>
#include <thread>

#include "worker/fake_runtime.h"
#include "worker/serve.h"

int main(int argc, char** argv) {
  CLI::App app("Abacus worker that replays timings instead of running a model");
  app.require_subcommand(1);
  abacus::ServeOptions options;
  CLI::App* serve = app.add_subcommand("serve", "Serve one model to a controller");
  abacus::AddServeOptions(*serve, &options);
  CLI11_PARSE(app, argc, argv);
  return abacus::Serve(options, [](const abacus::ModelSpec& spec, const abacus::ServeOptions&, const auto&) {
    std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int64_t>(spec.fake.load_us)));
    return abacus::Result<std::unique_ptr<abacus::ModelRuntime>>(std::make_unique<abacus::FakeRuntime>(spec));
  });
}
