// abacus-worker: runs one model. `serve` is what the controller starts; `check` is for people.
#include <CLI/CLI.hpp>

#include "worker/check.h"
#include "worker/runtime_factory.h"
#include "worker/serve.h"

namespace {

abacus::Result<std::unique_ptr<abacus::ModelRuntime>> MakeRuntime(
    const abacus::ModelSpec& spec, const abacus::ServeOptions& options,
    const std::function<void(std::string_view)>& progress) {
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
  runtime.progress = progress;
  auto loaded = abacus::LoadTorchRuntime(spec, runtime);
  if (!loaded) return abacus::Error(loaded.error());
  return std::unique_ptr<abacus::ModelRuntime>(std::move(*loaded));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Abacus worker: runs operator ranges of one model");
  app.require_subcommand(1);
  abacus::ServeOptions serve_options;
  CLI::App* serve = app.add_subcommand("serve", "Serve one model to a controller (started by it)");
  abacus::AddServeOptions(*serve, &serve_options);
  abacus::CheckOptions check_options;
  const CLI::App* check = abacus::AddCheckCommand(app, &check_options);
  CLI11_PARSE(app, argc, argv);
  return check->parsed() ? abacus::RunCheck(check_options) : abacus::Serve(serve_options, MakeRuntime);
}
