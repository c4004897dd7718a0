// Standardizer: brings columns and target to mean 0 and deviation 1 for training, and folds that into a network.
//
// The columns of a model are centred over the samples that have it and stay 0 in the others:
//   x'[j] = (x[j] - present * mean[j]) / scale[j]
// where `present` is the model's first column. That is linear in the columns, so a network trained on x' becomes one
// on x by changing its first layer; the target's mean and scale go into the last layer.
// Thread rule: const after the constructor.
#ifndef ABACUS_PREDICTOR_TRAIN_STANDARDIZER_H_
#define ABACUS_PREDICTOR_TRAIN_STANDARDIZER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "predictor/mlp.h"
#include "predictor/train/dataset.h"

namespace abacus {

class Standardizer {
 public:
  // From the samples in `rows`. `columns` are laid out as features.h says.
  Standardizer(const Matrix& columns, std::span<const float> targets, std::span<const uint32_t> rows);

  Matrix Columns(const Matrix& columns) const;
  // The rows, in their order.
  Matrix Columns(const Matrix& columns, std::span<const uint32_t> rows) const;
  std::vector<float> Targets(std::span<const float> targets, std::span<const uint32_t> rows) const;

  double target_scale() const { return target_scale_; }
  double target_mean() const { return target_mean_; }

  // From a network on standardised columns and target to one on raw ones.
  std::vector<MlpLayer> Fold(std::vector<MlpLayer> layers) const;

 private:
  size_t PresenceOf(size_t column) const;  // the column that says whether this one counts; none: the row always does
  bool IsPresence(size_t column) const;

  size_t model_columns_ = 0;
  std::vector<double> mean_;
  std::vector<double> scale_;
  double target_mean_ = 0;
  double target_scale_ = 1;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_STANDARDIZER_H_
