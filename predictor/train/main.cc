// abacus-train: trains the latency predictor on profiles. Exit codes: 0 done, 1 error, 130 interrupted.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <thread>

#include "predictor/train/trainer.h"

namespace {

std::atomic<bool> g_stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

// The first Ctrl-C ends the training; the second one kills as usual.
void StopOnSignal() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  abacus::TrainOptions options;
  options.threads = std::max(1u, std::thread::hardware_concurrency());
  CLI::App app("Trains the latency predictor on what abacus-profile measured, and says how good it is.");
  app.add_option("profiles", options.profiles, "profiles of one device and one set of models")->required();
  app.add_option("--out", options.out, "predictor file to write")->required();
  app.add_option("--report", options.report, "folder for errors by set of models, predictions and a summary");
  app.add_option("--seed", options.recipe.seed, "of the split, the start weights and the order of samples")
      ->capture_default_str();
  app.add_option("--epochs", options.recipe.epochs, "passes of the network over measured and made-up groups")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  app.add_option("--teachers", options.recipe.teachers, "large networks that it learns from")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  app.add_option("--hidden-layers", options.recipe.hidden_layers, "of the network, 64 wide each")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, abacus::kMaxLayers - 1));
  app.add_option("--folds", options.dataset.folds, "of the cross validation; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(2, 100) | CLI::IsMember({0}));
  app.add_option("--holdout", options.dataset.holdout, "share of the samples kept for the reported error")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 0.9));
  app.add_option("--min-set", options.dataset.min_set_samples, "groups that a set of models needs to be predicted")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "stages of training at a time")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_flag("--fresh", options.fresh, "start over instead of going on after an interrupted run");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }
  options.dataset.seed = options.recipe.seed;

  StopOnSignal();
  const abacus::Result<abacus::TrainOutcome> outcome = abacus::Train(options, g_stop);
  if (!outcome) {
    fmt::print(stderr, "abacus-train: {}\n", outcome.error().message());
    return 1;
  }
  return outcome->interrupted ? 130 : 0;
}
