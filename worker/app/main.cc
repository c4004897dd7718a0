// abacus-worker: runs one model. `serve` is what the controller starts, `verify` what the exporter ends with; `check`
// and `bench` are for people.
#include <memory>
#include <utility>

#include "worker/app/bench.h"
#include "worker/app/check.h"
#include "worker/app/command_line.h"
#include "worker/app/runtime_factory.h"
#include "worker/app/verify.h"
#include "worker/serve/serve.h"

namespace {

abacus::Result<std::unique_ptr<abacus::ModelRuntime>> MakeRuntime(const abacus::ModelSpec& spec,
                                                                  const abacus::ServeOptions& options,
                                                                  const abacus::LoadHooks& hooks) {
  if (options.device != "cpu" && options.device != "cuda") {
    return abacus::Error(abacus::StatusCode::kInvalidArgument,
                         "unknown device '" + options.device + "'; one of cpu, cuda");
  }
  abacus::RuntimeOptions runtime;
  runtime.device =
      options.device == "cuda" ? abacus::RuntimeOptions::Device::kCuda : abacus::RuntimeOptions::Device::kCpu;
  runtime.gpu = options.gpu;
  runtime.cpu_threads = options.cpu_threads;
  runtime.gpu_timestamps = options.gpu_timestamps;
  runtime.hooks = hooks;
  auto loaded = abacus::LoadTorchRuntime(spec, runtime);
  if (!loaded) return abacus::Error(loaded.error());
  return std::unique_ptr<abacus::ModelRuntime>(std::move(*loaded));
}

}  // namespace

int main(int argc, char** argv) {
  abacus::WorkerCommands commands;
  commands.description = "Abacus worker: runs operator ranges of one model";
  commands.serve_description = "Serve one model to a controller (started by it)";
  commands.serve = [](const abacus::ServeOptions& options) { return abacus::Serve(options, MakeRuntime); };
  commands.verify = abacus::RunVerify;
  commands.check = abacus::RunCheck;
  commands.bench = abacus::RunBench;
  return abacus::RunCommandLine(argc, argv, commands);
}
