// Made-up profiles with a known law of overlap, for the tests of training.
//
// Every model has its own demand for compute and for memory bandwidth along its operators, in pieces; batches saturate
// both. Ranges that run together slow each other down where their demands add up to more than the GPU has, more so for
// some pairs of models than for others. The time of a group comes from following the ranges piece by piece.
#ifndef ABACUS_TESTS_PREDICTOR_TRAIN_SYNTHETIC_PROFILE_H_
#define ABACUS_TESTS_PREDICTOR_TRAIN_SYNTHETIC_PROFILE_H_

#include <cstdint>
#include <filesystem>
#include <vector>

#include "predictor/profile_data.h"

namespace abacus {

struct SyntheticOptions {
  uint32_t models = 4;
  std::vector<int64_t> batches = {1, 4, 16};
  std::vector<int64_t> last_sequences;  // of the last model, with each batch; empty: no sequence dimension
  std::vector<uint32_t> groups = {0, 600, 200, 100};  // of 1, 2, 3, 4 models
  double noise = 0.005;                               // relative standard deviation
  uint64_t seed = 1;
};
ProfileData MakeSyntheticProfile(const SyntheticOptions& options);

// Fails the current test on an error.
void WriteProfile(const ProfileData& profile, const std::filesystem::path& path);

}  // namespace abacus

#endif  // ABACUS_TESTS_PREDICTOR_TRAIN_SYNTHETIC_PROFILE_H_
