// The check command: proves that what serves a model gives the answers of the plain module, bit-identical however it is
// cut, and times the cuts (see cut_checker.h for what is compared); with recorded cases, that it gives theirs.
//
// Thread rule: one thread; loads the model in it.
#ifndef ABACUS_WORKER_APP_CHECK_H_
#define ABACUS_WORKER_APP_CHECK_H_

#include <filesystem>

#include "worker/app/cut_checker.h"

namespace abacus {

struct CheckOptions {
  CutCheckerOptions checker;
  std::filesystem::path cases;  // a folder of recorded cases (cases.h), checked in place of the buckets; empty: none
  bool json = false;            // one JSON object per bucket or case and line, instead of a table
};

// Results go to standard output, progress and errors to standard error. Returns the exit code: 0 all outputs agree,
// 1 some differ, 2 the model or a case could not be loaded or run.
int RunCheck(const CheckOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_CHECK_H_
