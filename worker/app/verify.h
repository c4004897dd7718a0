// The verify command: loads a model with all the checks of serving it, without measuring it, and runs every bucket. The
// exporter ends with it, so that nothing is written which a worker refuses.
//
// Thread rule: one thread; loads the model in it.
#ifndef ABACUS_WORKER_APP_VERIFY_H_
#define ABACUS_WORKER_APP_VERIFY_H_

#include <filesystem>

#include "worker/app/runtime_factory.h"

namespace abacus {

struct VerifyOptions {
  std::filesystem::path model;  // NAME.toml
  RuntimeOptions runtime;
  bool json = false;  // a JSON object instead of a sentence
};

// One line about the model goes to standard output; warnings, and the reason of a refusal last, to standard error.
// Returns the exit code: 0 a worker serves it, 2 it does not.
int RunVerify(const VerifyOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_VERIFY_H_
