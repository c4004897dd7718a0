#include "worker/app/command_line.h"

#include <CLI/CLI.hpp>
#include <cstdint>

namespace abacus {
namespace {

void AddServeOptions(CLI::App& app, ServeOptions* options) {
  app.add_option("--segment", options->segment, "Name of the controller whose segment to attach to")->required();
  app.add_option_function<uint32_t>(
         "--worker", [options](uint32_t id) { options->worker = WorkerId(id); }, "Worker slot of the segment")
      ->required();
  app.add_option("--model", options->model, "Model description NAME.toml")->required();
  app.add_option("--device", options->device, "cpu, cuda or fake");
  app.add_option("--gpu", options->gpu, "GPU: CUDA device index or UUID");
  app.add_option("--cpu-threads", options->cpu_threads, "Threads of one operator on the CPU");
  app.add_option("--spin-us", options->spin_us, "Time to spin on an empty ring before sleeping");
  app.add_option("--gate", options->gate, "device or host: where a GPU's ranges wait that came ahead of their round")
      ->check(CLI::IsMember({"device", "host"}));
  app.add_flag("--gpu-timestamps", options->gpu_timestamps, "Record on the GPU when ranges begin and end");
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn or error");
}

void AddCheckOptions(CLI::App& app, CheckOptions* options) {
  app.add_option("--model", options->checker.model, "model description, NAME.toml")->required();
  app.add_option_function<std::string>(
         "--device",
         [options](const std::string& device) {
           options->checker.runtime.device =
               device == "cuda" ? RuntimeOptions::Device::kCuda : RuntimeOptions::Device::kCpu;
         },
         "cpu or cuda (default: cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--gpu", options->checker.runtime.gpu, "GPU index or UUID, with --device cuda")->capture_default_str();
  app.add_option("--cpu-threads", options->checker.runtime.cpu_threads, "threads of one operator; 0: all cores")
      ->capture_default_str();
  app.add_option("--batch", options->checker.batches, "only buckets of these batch sizes, e.g. 1,4")->delimiter(',');
  app.add_option("--repetitions", options->checker.repetitions, "of each timing; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--json", options->json, "one JSON object per bucket and line");
}

}  // namespace

int RunCommandLine(int argc, const char* const* argv, const WorkerCommands& commands) {
  CLI::App app(commands.description);
  app.require_subcommand(1);
  ServeOptions serve_options;
  AddServeOptions(*app.add_subcommand("serve", commands.serve_description), &serve_options);
  CheckOptions check_options;
  CLI::App* check = nullptr;
  if (commands.check) {
    check = app.add_subcommand("check", "Compare every way to cut a model with the uncut run, and time it");
    AddCheckOptions(*check, &check_options);
  }
  CLI11_PARSE(app, argc, argv);
  return check != nullptr && check->parsed() ? commands.check(check_options) : commands.serve(serve_options);
}

}  // namespace abacus
