#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>

#include "predictor/train/regression.h"
#include "predictor/train/standardizer.h"

namespace abacus {
namespace {

using torch::Tensor;
namespace F = torch::nn::functional;

// Chosen on synthetic profiles of seven models and 16,000 groups, of the law that the tests use.
constexpr double kLearningRate = 4e-3;
constexpr double kWarmUpShare = 0.04;  // of all steps
constexpr double kWeightDecay = 0.01;
constexpr double kHuberDelta = 0.01;  // of the target, so about a relative error: mostly the absolute error counts
constexpr double kAverageDecay = 0.998;
constexpr uint32_t kTeacherLayers = 2;
constexpr int64_t kTeacherWidth = 256;
constexpr double kTeacherWeightDecay = 0.5;  // they see few samples for their size
constexpr double kTeacherStepCost = 6;       // against a step of the network, for the progress
constexpr double kRidge = 1e-3;              // against columns that depend on each other

// Small enough for some steps per epoch.
int64_t BatchOf(int64_t rows) { return std::clamp<int64_t>(rows / 16, 1, 256); }

Tensor ToTensor(const Matrix& matrix) {
  const auto rows = static_cast<int64_t>(matrix.rows()), columns = static_cast<int64_t>(matrix.columns);
  return torch::tensor(matrix.values).view({rows, columns});
}
Tensor ToColumn(const std::vector<float>& values) { return torch::tensor(values).view({-1, 1}); }

std::vector<float> ToVector(const Tensor& tensor) {
  const Tensor flat = tensor.contiguous().view({-1});
  const auto* data = flat.data_ptr<float>();
  return {data, data + flat.numel()};
}

// All parameters in one tensor, so that a step of the optimiser or the average is a few operations in all.
class Network {
 public:
  Network(int64_t inputs, uint32_t hidden_layers, int64_t hidden_width, const at::Generator& generator) {
    widths_.push_back(inputs);
    widths_.insert(widths_.end(), hidden_layers, hidden_width);
    widths_.push_back(1);
    int64_t count = 0;
    for (size_t l = 0; l + 1 < widths_.size(); ++l) count += (widths_[l] + 1) * widths_[l + 1];
    values_ = torch::zeros({count});
    gradient_ = torch::zeros({count});
    values_.mutable_grad() = gradient_;
    const std::vector<Tensor> gradients = Views(gradient_);
    parameters_ = Views(values_);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const bool weights = i % 2 == 0;
      if (weights) parameters_[i].normal_(0, std::sqrt(2.0 / static_cast<double>(parameters_[i].size(0))), generator);
      parameters_[i].requires_grad_();
      parameters_[i].mutable_grad() = gradients[i];
    }
  }

  Tensor& values() { return values_; }
  Tensor& gradient() { return gradient_; }

  Tensor Forward(const Tensor& columns) const { return Forward(parameters_, columns); }
  Tensor ForwardWith(const Tensor& values, const Tensor& columns) const { return Forward(Views(values), columns); }

  std::vector<MlpLayer> Layers(const Tensor& values) const {
    std::vector<MlpLayer> layers;
    const std::vector<Tensor> views = Views(values);
    for (size_t l = 0; l + 1 < widths_.size(); ++l) {
      layers.push_back({static_cast<size_t>(widths_[l]), static_cast<size_t>(widths_[l + 1]), ToVector(views[2 * l]),
                        ToVector(views[2 * l + 1])});
    }
    return layers;
  }

 private:
  // Weights [inputs][outputs] and bias of each layer in turn. Detached: each is a parameter of its own to autograd.
  std::vector<Tensor> Views(const Tensor& values) const {
    std::vector<Tensor> views;
    int64_t offset = 0;
    for (size_t l = 0; l + 1 < widths_.size(); ++l) {
      const int64_t inputs = widths_[l], outputs = widths_[l + 1];
      views.push_back(values.narrow(0, offset, inputs * outputs).view({inputs, outputs}).detach());
      offset += inputs * outputs;
      views.push_back(values.narrow(0, offset, outputs).detach());
      offset += outputs;
    }
    return views;
  }

  static Tensor Forward(const std::vector<Tensor>& parameters, Tensor x) {
    for (size_t i = 0; i < parameters.size(); i += 2) {
      if (i > 0) x = torch::relu(x);
      x = torch::addmm(parameters[i + 1], x, parameters[i]);
    }
    return x;
  }

  std::vector<int64_t> widths_;
  Tensor values_;
  Tensor gradient_;
  std::vector<Tensor> parameters_;
};

// Standardised columns and targets.
struct Samples {
  Tensor columns;
  Tensor targets;
};

struct Schedule {
  uint32_t epochs = 0;
  double weight_decay = 0;
};

struct Best {
  Tensor values;
  uint32_t epoch = 0;
  double mape = std::numeric_limits<double>::infinity();
};

// Of times whose logarithms differ by `difference`.
double MapeOf(const Tensor& difference) { return torch::expm1(difference).abs().mean().item<double>(); }

// Rises to 1 over the warm-up, then falls along a cosine to 0.
double RateShare(int64_t step, int64_t steps) {
  const double done = static_cast<double>(step) / static_cast<double>(steps);
  if (done < kWarmUpShare) return (done + 1.0 / static_cast<double>(steps)) / kWarmUpShare;
  return 0.5 * (1 + std::cos(std::numbers::pi * (done - kWarmUpShare) / (1 - kWarmUpShare)));
}

// Trains and returns the averaged values of the epoch that is best on `validation`; nothing when stopped.
std::optional<Best> TrainOne(Network& network, const Samples& train, const Samples& validation, double target_scale,
                             const Schedule& schedule, const at::Generator& generator, const std::atomic<bool>& stop,
                             const std::function<void(uint32_t, double)>& epoch_done) {
  torch::optim::AdamW optimizer({network.values()},
                                torch::optim::AdamWOptions(kLearningRate).weight_decay(schedule.weight_decay));
  auto& adam = static_cast<torch::optim::AdamWOptions&>(optimizer.param_groups().front().options());
  const auto loss_options = F::HuberLossFuncOptions().delta(kHuberDelta / target_scale);
  const int64_t rows = train.columns.size(0), batch = BatchOf(rows);
  const int64_t batches = rows / batch;  // a random rest is left out of each epoch
  const int64_t steps = batches * schedule.epochs;
  Tensor average = network.values().clone();
  Best best;
  best.values = average.clone();
  int64_t step = 0;
  for (uint32_t epoch = 1; epoch <= schedule.epochs; ++epoch) {
    const Tensor order = torch::randperm(rows, generator, torch::kInt64);
    for (int64_t b = 0; b < batches; ++b, ++step) {
      if (stop.load(std::memory_order_relaxed)) return std::nullopt;
      const Tensor picked = order.narrow(0, b * batch, batch);
      network.gradient().zero_();
      F::huber_loss(network.Forward(train.columns.index_select(0, picked)), train.targets.index_select(0, picked),
                    loss_options)
          .backward();
      adam.lr(kLearningRate * RateShare(step, steps));
      optimizer.step();
      // Over few steps at first, else it would carry the random start along.
      const auto done = static_cast<double>(step);
      average.lerp_(network.values(), 1 - std::min(kAverageDecay, (done + 1) / (done + 10)));
    }
    const double mape = MapeOf((network.ForwardWith(average, validation.columns) - validation.targets) * target_scale);
    if (mape < best.mape) {
      best.mape = mape;
      best.epoch = epoch;
      best.values.copy_(average);
    }
    epoch_done(epoch, mape);
  }
  return best;
}

}  // namespace

std::optional<Fit> FitNetwork(const Dataset& dataset, const Split& split, const NetworkRecipe& recipe,
                              const std::atomic<bool>& stop, const FitProgress& progress) {
  at::set_num_threads(1);  // of this thread; several fits share the cores
  const Standardizer standardizer(dataset.columns, dataset.targets, split.train);
  const double scale = standardizer.target_scale();
  const auto samples_of = [&](const std::vector<uint32_t>& rows) {
    return Samples{ToTensor(standardizer.Columns(dataset.columns, rows)),
                   ToColumn(standardizer.Targets(dataset.targets, rows))};
  };
  const Samples measured = samples_of(split.train);
  // A handful of samples may leave none for validation; the training error picks the epoch then.
  const Samples validation = split.validation.empty() ? measured : samples_of(split.validation);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(recipe.seed);

  const int64_t rows = measured.columns.size(0), teacher_batches = rows / BatchOf(rows);
  const auto teacher_epochs = static_cast<uint32_t>(recipe.teacher_steps / teacher_batches + 1);
  const int64_t student_rows = rows + recipe.made_up;
  const double teacher_work = static_cast<double>(teacher_epochs * teacher_batches) * kTeacherStepCost;
  const double student_work = static_cast<double>(student_rows / BatchOf(student_rows) * recipe.epochs);
  const double all_work = recipe.teachers * teacher_work + student_work;

  const Tensor made_up =
      ToTensor(standardizer.Columns(MakeUpGroups(dataset, split.train, recipe.made_up, recipe.seed)));
  Tensor taught = torch::zeros_like(measured.targets), taught_made_up = torch::zeros({made_up.size(0), 1});
  for (uint32_t t = 0; t < recipe.teachers; ++t) {
    Network teacher(measured.columns.size(1), kTeacherLayers, kTeacherWidth, generator);
    const auto best = TrainOne(teacher, measured, validation, scale, {teacher_epochs, kTeacherWeightDecay}, generator,
                               stop, [&](uint32_t epoch, double mape) {
                                 progress((t * teacher_work + teacher_work * epoch / teacher_epochs) / all_work,
                                          "teacher " + std::to_string(t + 1), epoch, teacher_epochs, mape);
                               });
    if (!best) return std::nullopt;
    taught += teacher.ForwardWith(best->values, measured.columns) / static_cast<double>(recipe.teachers);
    taught_made_up += teacher.ForwardWith(best->values, made_up) / static_cast<double>(recipe.teachers);
  }

  // What was measured counts as much as what the teachers make of it.
  const Samples lesson = {torch::cat({measured.columns, made_up}),
                          torch::cat({(measured.targets + taught) / 2, taught_made_up})};
  Network network(measured.columns.size(1), recipe.hidden_layers, kHiddenWidth, generator);
  const auto best = TrainOne(network, lesson, validation, scale, {recipe.epochs, kWeightDecay}, generator, stop,
                             [&](uint32_t epoch, double mape) {
                               const double done =
                                   recipe.teachers * teacher_work + student_work * epoch / recipe.epochs;
                               progress(done / all_work, "network", epoch, recipe.epochs, mape);
                             });
  if (!best) return std::nullopt;

  Fit fit;
  fit.layers = standardizer.Fold(network.Layers(best->values));
  const Tensor test_columns = ToTensor(standardizer.Columns(dataset.columns, split.test));
  fit.targets = ToVector(network.ForwardWith(best->values, test_columns) * scale + standardizer.target_mean());
  fit.best_epoch = best->epoch;
  fit.validation_mape = best->mape;
  fit.samples = split.train.size();
  return fit;
}

Fit FitLinear(const Dataset& dataset, const Split& split) {
  at::set_num_threads(1);
  const Standardizer standardizer(dataset.columns, dataset.targets, split.train);
  const auto with_ones = [&](const std::vector<uint32_t>& rows) {
    const Tensor columns = ToTensor(standardizer.Columns(dataset.columns, rows)).to(torch::kFloat64);
    return torch::cat({columns, torch::ones({columns.size(0), 1}, torch::kFloat64)}, 1);
  };
  const Tensor columns = with_ones(split.train);
  const Tensor targets = ToColumn(standardizer.Targets(dataset.targets, split.train)).to(torch::kFloat64);
  const int64_t count = columns.size(1);
  // Ridge regression as plain least squares: a row sqrt(ridge) e_j = 0 for each weight.
  const double weight = std::sqrt(kRidge * static_cast<double>(columns.size(0)));
  const Tensor extended = torch::cat({columns, weight * torch::eye(count, torch::kFloat64)});
  const Tensor extended_targets = torch::cat({targets, torch::zeros({count, 1}, torch::kFloat64)});
  const Tensor solution = std::get<0>(torch::linalg_lstsq(extended, extended_targets));
  Fit fit;
  fit.targets = ToVector((with_ones(split.test).mm(solution) * standardizer.target_scale() + standardizer.target_mean())
                             .to(torch::kFloat32));
  fit.samples = split.train.size();
  return fit;
}

}  // namespace abacus
