// Recorded cases: inputs and the outputs that a model must give for them, as NumPy files.
//
//   DIR/CASE/NAME.npy    one for every input and output of the model, all of the same rows and length
//   DIR/CASE/tolerance   optional: lines "NAME VALUE", for an output another tolerance than the model's
//
// Each case is one query: it runs in the bucket that a server would choose, uncut and cut, and its answers are compared
// with the recorded ones within the tolerance, max|a - b| / max|b|.
//
// Free of LibTorch headers. Thread rule: the bench's thread. Errors: NOT_FOUND or INVALID_ARGUMENT with the file, what
// is wrong with it, and what the model takes; a case that a server would refuse is one.
#ifndef ABACUS_WORKER_APP_CASES_H_
#define ABACUS_WORKER_APP_CASES_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace abacus {

class ModelBench;

// The folders in `dir`, by name. Error: there are none.
Result<std::vector<std::filesystem::path>> FindCases(const std::filesystem::path& dir);

struct CaseReport {
  std::string name;
  std::string label;        // "batch 3, sequence 20"
  uint32_t bucket = 0;      // it ran in
  double difference = 0;    // relative, the largest of all ways to run it
  double of_tolerance = 0;  // the same in tolerances of the output
  std::string error;        // an answer is not what was recorded
  bool ok() const { return error.empty(); }
};

// An error: the case cannot be read or run. That answers differ is in the report.
Result<CaseReport> CheckCase(ModelBench& bench, const std::filesystem::path& folder);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_CASES_H_
