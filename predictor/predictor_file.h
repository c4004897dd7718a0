// PredictorFile: a trained predictor on disk, with everything needed to refuse one that does not fit.
//
//   abacus-predictor SCHEMA BYTES CRC32\n      schema and length in decimal, CRC-32 of the body in 8 hex digits
//   BODY                                       BYTES bytes of JSON
//
// The body holds device, driver and libraries, the models with structure, buckets, operators and solo times, the
// network, what it was trained on, and its held-out error. Errors name the file and what is wrong with it: not a
// predictor, another schema, cut off, damaged (checksum), or inconsistent. Thread rule: plain values.
#ifndef ABACUS_PREDICTOR_PREDICTOR_FILE_H_
#define ABACUS_PREDICTOR_PREDICTOR_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "predictor/mlp.h"
#include "predictor/profile_data.h"

namespace abacus {

inline constexpr uint32_t kPredictorSchema = 1;

// A set of models that the network was trained on together. Others fall back to the additive model.
struct TrainedSet {
  std::vector<uint32_t> models;  // ascending indices
  uint64_t samples = 0;
  double mape = 0;  // held out, as a share (0.02 = 2 %)
};

struct PredictorFile {
  ProfileData subject;  // device, driver, libraries, seed, models with solo times; no groups
  std::vector<MlpLayer> layers;
  std::vector<TrainedSet> trained;
  uint64_t samples = 0;  // that it was trained on
  // Held-out error: of |predicted / measured - 1| ...
  double mape = 0;
  // ... and of measured / predicted - 1, at the quantiles 0, 0.001, .., 1: the margin starts from it, and the simulator
  // draws from it.
  std::vector<double> residuals;
};

Status SavePredictor(const PredictorFile& predictor, const std::filesystem::path& path);
Result<PredictorFile> LoadPredictor(const std::filesystem::path& path);
// The same from bytes; `source` names them in messages.
std::string EncodePredictor(const PredictorFile& predictor);
Result<PredictorFile> DecodePredictor(std::string_view bytes, const std::string& source);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_PREDICTOR_FILE_H_
