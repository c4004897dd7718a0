// The check command: proves that a model gives bit-identical outputs however it is cut, and times the cuts (see
// cut_checker.h for what is compared).
//
// Thread rule: one thread; loads the model in it.
#ifndef ABACUS_WORKER_APP_CHECK_H_
#define ABACUS_WORKER_APP_CHECK_H_

#include "worker/app/cut_checker.h"

namespace abacus {

struct CheckOptions {
  CutCheckerOptions checker;
  bool json = false;  // one JSON object per bucket and line, instead of a table
};

// Results go to standard output, progress and errors to standard error. Returns the exit code: 0 all outputs agree,
// 1 some differ, 2 the model could not be loaded or run.
int RunCheck(const CheckOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_CHECK_H_
