#include <libsvm/svm.h>

#include <algorithm>
#include <memory>

#include "predictor/train/regression.h"
#include "predictor/train/standardizer.h"

namespace abacus {
namespace {

// For standardised data.
constexpr double kCost = 10;
constexpr double kTube = 0.05;  // of the standardised target: errors below it do not count
constexpr double kCacheMiB = 400;

struct Stopped {};
thread_local const std::atomic<bool>* t_stop = nullptr;

// libsvm reports every thousand iterations, which is the only way to interrupt it. What it has allocated is lost; the
// program ends anyway.
void OnReport(const char*) {
  if (t_stop != nullptr && t_stop->load(std::memory_order_relaxed)) throw Stopped();
}

// Rows in libsvm's form: the columns that are not 0, then an end mark. Absent models cost nothing.
class Rows {
 public:
  explicit Rows(const Matrix& matrix) {
    for (size_t i = 0; i < matrix.rows(); ++i) {
      std::vector<svm_node>& nodes = nodes_.emplace_back();
      const std::span<const float> row = matrix.row(i);
      for (size_t j = 0; j < row.size(); ++j) {
        if (row[j] != 0) nodes.push_back({static_cast<int>(j + 1), row[j]});
      }
      nodes.push_back({-1, 0});
    }
    for (std::vector<svm_node>& nodes : nodes_) pointers_.push_back(nodes.data());
  }
  std::vector<svm_node*>& pointers() { return pointers_; }

 private:
  std::vector<std::vector<svm_node>> nodes_;
  std::vector<svm_node*> pointers_;
};

}  // namespace

std::optional<Fit> FitSvm(const Dataset& dataset, const Split& split, const std::atomic<bool>& stop) {
  std::vector<uint32_t> train = split.train;
  if (train.size() > kMaxSvmSamples) {
    // The hashes are random, so the smallest ones are a random choice.
    std::sort(train.begin(), train.end(),
              [&](uint32_t a, uint32_t b) { return dataset.hashes[a] < dataset.hashes[b]; });
    train.resize(kMaxSvmSamples);
  }
  const Standardizer standardizer(dataset.columns, dataset.targets, train);
  Rows rows(standardizer.Columns(dataset.columns, train));
  const std::vector<float> targets = standardizer.Targets(dataset.targets, train);
  std::vector<double> targets_double(targets.begin(), targets.end());
  svm_problem problem = {static_cast<int>(train.size()), targets_double.data(), rows.pointers().data()};
  svm_parameter parameter = {};
  parameter.svm_type = EPSILON_SVR;
  parameter.kernel_type = RBF;
  parameter.gamma = 1.0 / static_cast<double>(dataset.columns.columns);
  parameter.C = kCost;
  parameter.p = kTube;
  parameter.eps = 1e-2;
  parameter.cache_size = kCacheMiB;
  parameter.shrinking = 1;
  svm_set_print_string_function(&OnReport);
  t_stop = &stop;
  svm_model* trained = nullptr;
  try {
    trained = svm_train(&problem, &parameter);
  } catch (const Stopped&) {
    return std::nullopt;
  }
  const auto free_model = [](svm_model* model) { svm_free_and_destroy_model(&model); };
  const std::unique_ptr<svm_model, decltype(free_model)> model(trained, free_model);

  Fit fit;
  Rows test(standardizer.Columns(dataset.columns, split.test));
  for (const svm_node* row : test.pointers()) {
    fit.targets.push_back(
        static_cast<float>(svm_predict(model.get(), row) * standardizer.target_scale() + standardizer.target_mean()));
  }
  fit.samples = train.size();
  return fit;
}

}  // namespace abacus
