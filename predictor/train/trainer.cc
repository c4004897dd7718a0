#include "predictor/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "predictor/overlap_model.h"
#include "predictor/train/progress.h"
#include "predictor/train/work_dir.h"

namespace abacus {
namespace {

constexpr uint32_t kStagesVersion = 1;  // changes with what any stage computes
constexpr double kAgreement = 1e-5;

struct Stage {
  std::string name;
  double work = 0;  // 1 for a network, 0 for what takes little time beside it
  std::function<std::optional<Fit>(const FitProgress&)> run;
  std::optional<Fit> fit;
};

std::string StageText(const Stage& stage, const Fit& fit) {
  std::string text = fmt::format("{}: {} samples, {:.1f} s", stage.name, fit.samples, fit.seconds);
  if (fit.best_epoch > 0) {
    text += fmt::format(", validation error {:.2f} % at epoch {}", 100 * fit.validation_mape, fit.best_epoch);
  }
  return text;
}

// Runs the stages that have no fit yet on several threads. Some lack one afterwards when `stop` became true.
class StageRunner {
 public:
  StageRunner(std::vector<Stage>* stages, const WorkDir& work, const TrainOptions& options,
              const std::atomic<bool>& stop, StageProgress* progress)
      : stages_(*stages), work_(work), options_(options), stop_(stop), progress_(*progress) {}

  Status Run() {
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < options_.threads; ++i) threads.emplace_back([this] { Work(); });
    for (std::thread& thread : threads) thread.join();
    return status_;
  }

 private:
  Stage* Next() {
    const std::scoped_lock lock(mutex_);
    if (!status_.ok() || stop_.load()) return nullptr;
    while (next_ < stages_.size() && stages_[next_].fit) ++next_;
    return next_ < stages_.size() ? &stages_[next_++] : nullptr;
  }

  void Work() {
    while (Stage* stage = Next()) {
      Status status;
      try {
        status = RunOne(stage);
      } catch (const std::exception& error) {  // LibTorch's way to report
        status = Status(StatusCode::kInternal, error.what()).WithContext(stage->name);
      }
      if (status.ok()) continue;
      const std::scoped_lock lock(mutex_);
      status_ = std::move(status);
    }
  }

  Status RunOne(Stage* stage) {
    const uint64_t start_ns = MonotonicNs();
    progress_.Update(stage->name, 0, "running");
    const auto progress = [&](double share, const std::string& what, uint32_t epoch, uint32_t epochs, double mape) {
      progress_.Update(stage->name, stage->work * share,
                       fmt::format("{}, epoch {} of {}, error {:.2f} %", what, epoch, epochs, 100 * mape));
    };
    std::optional<Fit> fit = stage->run(progress);
    if (!fit) return Status::Ok();
    fit->seconds = static_cast<double>(MonotonicNs() - start_ns) * 1e-9;
    ABACUS_RETURN_IF_ERROR(work_.Save(stage->name, *fit));
    progress_.Finish(stage->name, stage->work, StageText(*stage, *fit));
    stage->fit = std::move(fit);
    if (options_.on_stage_end) options_.on_stage_end(stage->name);
    return Status::Ok();
  }

  std::vector<Stage>& stages_;
  const WorkDir& work_;
  const TrainOptions& options_;
  const std::atomic<bool>& stop_;
  StageProgress& progress_;
  std::mutex mutex_;
  size_t next_ = 0;
  Status status_;
};

Result<Dataset> ReadDataset(const TrainOptions& options) {
  std::vector<ProfileData> profiles;
  std::vector<std::string> names;
  for (const std::filesystem::path& path : options.profiles) {
    Result<ProfileData> profile = ReadProfile(path);
    if (!profile) return Error(profile.error());
    profiles.push_back(std::move(*profile));
    names.push_back(path.string());
  }
  return MakeDataset(std::move(profiles), names, options.dataset);
}

// Everything that a stage's result depends on.
std::string KeyOf(const Dataset& dataset, const TrainOptions& options) {
  const DatasetOptions& d = options.dataset;
  const NetworkRecipe& r = options.recipe;
  return fmt::format("{} {} data {:016x} {} split {} {} {} {} {} net {} {} {} {} {} {}", kStagesVersion, kFeatureSchema,
                     Fingerprint(dataset), dataset.samples.size(), d.seed, d.holdout, d.validation, d.folds,
                     d.min_set_samples, r.hidden_layers, r.epochs, r.teachers, r.teacher_steps, r.made_up, r.seed);
}

std::vector<TrainedSet> TrainedSets(const Dataset& dataset, const Evaluation& evaluation) {
  std::vector<TrainedSet> trained;
  for (size_t i = 0; i < dataset.sets.size(); ++i) {
    const ModelSet& set = dataset.sets[i];
    if (!set.trained) continue;
    // Chance may have held out none of a small set.
    const ErrorFigures& figures = evaluation.by_set[i];
    trained.push_back({set.models, set.samples, figures.samples > 0 ? figures.network : evaluation.overall.network});
  }
  return trained;
}

}  // namespace

Status CheckPredictor(const PredictorFile& predictor, const Dataset& dataset, std::span<const uint32_t> test,
                      const Fit& network) {
  const Result<Mlp> mlp = Mlp::Create(predictor.layers);
  if (!mlp) return mlp.error();
  const Result<std::unique_ptr<OverlapModel>> model = OverlapModel::Create(predictor);
  if (!model) return model.error();
  for (uint32_t m = 0; m < dataset.subject.models.size(); ++m) {
    OverlapModel::ServiceFacts facts = {dataset.subject.device, dataset.subject.libraries, {}};
    for (const BucketProfile& bucket : dataset.subject.models[m].buckets) {
      facts.buckets.push_back({bucket.batch,
                               bucket.sequence,
                               bucket.operators,
                               {0, bucket.operators},
                               static_cast<uint64_t>(std::lround(bucket.whole_us() * 1e3))});
    }
    ABACUS_RETURN_IF_ERROR((*model)->Connect(ServiceId(m), dataset.subject.models[m].name, facts));
  }
  for (size_t i = 0; i < test.size(); ++i) {
    const GroupTimes& times = dataset.times[test[i]];
    const double expected_us = DecodeTime(network.targets[i], times);
    const double mlp_us = DecodeTime(mlp->Evaluate(dataset.columns.row(test[i])), times);
    std::vector<OperatorRange> group;
    for (const ProfiledRange& range : dataset.samples[test[i]].ranges) {
      group.push_back({ServiceId(range.model), range.bucket, range.first, range.last});
    }
    const Prediction prediction = (*model)->Predict(group);
    const double model_us = static_cast<double>(prediction.ns) * 1e-3;
    constexpr double kRoundingUs = 1e-3;  // of a prediction, to whole nanoseconds
    if (!(std::abs(mlp_us - expected_us) <= kAgreement * expected_us) || !prediction.trained ||
        !(std::abs(model_us - expected_us) <= kAgreement * expected_us + kRoundingUs)) {
      return {
          StatusCode::kInternal,
          fmt::format("the network says {:.6f} us in LibTorch, {:.6f} us in Mlp and {:.6f} us in OverlapModel for {}",
                      expected_us, mlp_us, model_us, RangesText(dataset.subject, dataset.samples[test[i]].ranges))};
    }
  }
  return Status::Ok();
}

Result<TrainOutcome> Train(const TrainOptions& options, const std::atomic<bool>& stop) {
  const Result<Dataset> dataset = ReadDataset(options);
  if (!dataset) return Error(dataset.error());
  for (const std::string& warning : dataset->warnings) fmt::print(stderr, "warning: {}\n", warning);
  fmt::print("{}", DataText(*dataset));

  const Split split = HoldoutSplit(*dataset, options.dataset);
  if (split.train.empty() || split.test.empty()) {
    return Error(StatusCode::kInvalidArgument, "the held-out share leaves nothing to train on or nothing to test with");
  }
  fmt::print("training   {} samples, {} pick the epoch, {} are held out; {} folds, {} threads\n", split.train.size(),
             split.validation.size(), split.test.size(), options.dataset.folds, options.threads);
  if (split.train.size() > kMaxSvmSamples) {
    fmt::print("           the SVM learns from {} of them: its time grows with their square\n", kMaxSvmSamples);
  }
  std::fflush(stdout);

  const Result<WorkDir> work = WorkDir::Open(options.out.string() + ".work", KeyOf(*dataset, options), options.fresh);
  if (!work) return Error(work.error());

  std::vector<Split> folds;
  for (uint32_t f = 0; f < options.dataset.folds; ++f) folds.push_back(FoldSplit(*dataset, options.dataset, f));
  std::vector<Stage> stages;
  const auto add_network = [&](const std::string& name, const Split& of, uint64_t seed) {
    NetworkRecipe recipe = options.recipe;
    recipe.seed = seed;
    const auto run = [&, recipe](const FitProgress& done) { return FitNetwork(*dataset, of, recipe, stop, done); };
    stages.push_back({name, 1, run, std::nullopt});
  };
  add_network("network", split, options.recipe.seed);
  stages.push_back({"svm", 0, [&](const FitProgress&) { return FitSvm(*dataset, split, stop); }, std::nullopt});
  stages.push_back({"linear", 0, [&](const FitProgress&) { return FitLinear(*dataset, split); }, std::nullopt});
  for (uint32_t f = 0; f < folds.size(); ++f) {
    add_network(fmt::format("fold-{}", f + 1), folds[f], options.recipe.seed + f + 1);
  }

  double all_work = 0;
  for (const Stage& stage : stages) all_work += stage.work;
  StageProgress progress(stderr, all_work, static_cast<uint32_t>(stages.size()));
  for (Stage& stage : stages) {
    stage.fit = work->Load(stage.name);
    if (!stage.fit) continue;
    progress.Skip(stage.work);
    fmt::print(stderr, "{} (from the earlier run)\n", StageText(stage, *stage.fit));
  }
  const Status run = StageRunner(&stages, *work, options, stop, &progress).Run();
  progress.End();
  ABACUS_RETURN_IF_ERROR(run);
  if (std::any_of(stages.begin(), stages.end(), [](const Stage& stage) { return !stage.fit; })) {
    fmt::print(stderr, "stopped; {} keeps the finished stages, run the same command to go on\n", work->path().string());
    return TrainOutcome{true, {}};
  }

  const Fit &network = *stages[0].fit, &svm = *stages[1].fit, &linear = *stages[2].fit;
  std::vector<FoldResult> fold_results;
  for (uint32_t f = 0; f < folds.size(); ++f) {
    const Fit& fit = *stages[3 + f].fit;
    fold_results.push_back({folds[f].test.size(), MapeOf(*dataset, folds[f].test, fit), fit.best_epoch, fit.seconds});
  }
  TrainOutcome outcome;
  outcome.evaluation = Evaluate(*dataset, split.test, network, linear, svm, std::move(fold_results));
  const Evaluation& evaluation = outcome.evaluation;
  fmt::print("\n{}", TableText(*dataset, evaluation));
  if (!evaluation.folds.empty()) {
    fmt::print("{} folds: error {:.2f} % +- {:.2f} % (mean and standard deviation)\n", evaluation.folds.size(),
               100 * evaluation.folds_mean, 100 * evaluation.folds_deviation);
  }

  PredictorFile predictor;
  predictor.subject = dataset->subject;
  predictor.layers = network.layers;
  predictor.trained = TrainedSets(*dataset, evaluation);
  predictor.samples = network.samples;
  predictor.mape = evaluation.overall.network;
  predictor.residuals = ResidualQuantiles(evaluation.rows);
  ABACUS_RETURN_IF_ERROR(CheckPredictor(predictor, *dataset, split.test, network));
  if (!options.report.empty()) {
    const RunFacts facts = {options.recipe.seed,          network.samples,       split.validation.size(), svm.samples,
                            options.recipe.hidden_layers, options.recipe.epochs, network.best_epoch};
    ABACUS_RETURN_IF_ERROR(WriteReport(*dataset, evaluation, facts, options.report));
  }
  ABACUS_RETURN_IF_ERROR(SavePredictor(predictor, options.out));
  work->Remove();
  fmt::print("wrote {}\n", options.out.string());
  return outcome;
}

}  // namespace abacus
