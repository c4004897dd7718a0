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
  app.add_option("--digest", options->digest, "Digest of the model whose files are inherited as descriptors 10 and up");
  app.add_option("--device", options->device, "cpu, cuda or fake");
  app.add_option("--gpu", options->gpu, "GPU: CUDA device index or UUID");
  app.add_option("--cpu-threads", options->cpu_threads, "Threads of one operator on the CPU");
  app.add_option("--spin-us", options->spin_us, "Time to spin on an empty ring before sleeping");
  app.add_option("--gate", options->gate, "device or host: where a GPU's ranges wait that came ahead of their round")
      ->check(CLI::IsMember({"device", "host"}));
  app.add_flag("--gpu-timestamps", options->gpu_timestamps, "Record on the GPU when ranges begin and end");
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn or error");
}

void AddDeviceOptions(CLI::App& app, RuntimeOptions* options) {
  app.add_option_function<std::string>(
         "--device",
         [options](const std::string& device) {
           options->device = device == "cuda" ? RuntimeOptions::Device::kCuda : RuntimeOptions::Device::kCpu;
         },
         "cpu or cuda (default: cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--gpu", options->gpu, "GPU index or UUID, with --device cuda")->capture_default_str();
  app.add_option("--cpu-threads", options->cpu_threads, "threads of one operator; 0: all cores")->capture_default_str();
}

void AddVerifyOptions(CLI::App& app, VerifyOptions* options) {
  app.add_option("--model", options->model, "model description, NAME.toml")->required();
  AddDeviceOptions(app, &options->runtime);
  app.add_flag("--json", options->json, "a JSON object instead of a sentence");
}

void AddBenchOptions(CLI::App& app, BenchOptions* options) {
  app.add_option("--model", options->model, "model description, NAME.toml")->required();
  AddDeviceOptions(app, &options->runtime);
  app.add_option("--batch", options->batches, "only buckets of these batch sizes, e.g. 1,32")->delimiter(',');
  app.add_option("--repetitions", options->repetitions, "of each pass; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--json", options->json, "one JSON object per bucket and line");
}

void AddCheckOptions(CLI::App& app, CheckOptions* options) {
  app.add_option("--model", options->checker.model, "model description, NAME.toml")->required();
  AddDeviceOptions(app, &options->checker.runtime);
  app.add_option("--batch", options->checker.batches, "only buckets of these batch sizes, e.g. 1,4")->delimiter(',');
  app.add_option("--repetitions", options->checker.repetitions, "of each timing; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--cases", options->cases,
                 "instead of the buckets, recorded cases: DIR/CASE/NAME.npy for every input and output");
  app.add_flag("--json", options->json, "one JSON object per bucket or case and line");
}

}  // namespace

int RunCommandLine(int argc, const char* const* argv, const WorkerCommands& commands) {
  CLI::App app(commands.description);
  app.require_subcommand(1);
  ServeOptions serve_options;
  AddServeOptions(*app.add_subcommand("serve", commands.serve_description), &serve_options);
  VerifyOptions verify_options;
  CLI::App* verify = nullptr;
  if (commands.verify) {
    verify = app.add_subcommand("verify", "Load a model with all the checks of serving it, and run every bucket");
    AddVerifyOptions(*verify, &verify_options);
  }
  CheckOptions check_options;
  CLI::App* check = nullptr;
  if (commands.check) {
    check = app.add_subcommand("check", "Compare a model with the plain module and every way to cut it, and time it");
    AddCheckOptions(*check, &check_options);
  }
  BenchOptions bench_options;
  CLI::App* bench = nullptr;
  if (commands.bench) {
    bench = app.add_subcommand("bench", "Time passes of one query against passes of as many queries as fill the batch");
    AddBenchOptions(*bench, &bench_options);
  }
  CLI11_PARSE(app, argc, argv);
  if (bench != nullptr && bench->parsed()) return commands.bench(bench_options);
  if (verify != nullptr && verify->parsed()) return commands.verify(verify_options);
  return check != nullptr && check->parsed() ? commands.check(check_options) : commands.serve(serve_options);
}

}  // namespace abacus
