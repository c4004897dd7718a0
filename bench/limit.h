// The highest load that passes a test: by doubling steps from a guess, then by bisection of the ratio.
// Thread rule: a pure function.
#ifndef ABACUS_BENCH_LIMIT_H_
#define ABACUS_BENCH_LIMIT_H_

#include <cmath>

#include "base/status.h"

namespace abacus::bench {

struct LimitSearch {
  double start = 1;          // where to look first
  double step = 1.5;         // first step away from there, a ratio; the next ones are its square, and so on
  double precision = 0.005;  // of the answer, relative
  double lowest = 0.01;
  double highest = 100;
};

// `passes(load)` is a Result<bool>, and taken to be true up to some load and false beyond it. Returns a load that was
// seen to pass, beside one that was seen not to; 0: not even the lowest passes; `highest`: that one passes.
template <class Passes>
Result<double> HighestLoad(const LimitSearch& search, const Passes& passes) {
  double low = 0, high = 0;  // seen to pass, seen to fail; 0: not yet
  double load = search.start, step = search.step;
  while (low == 0 || high == 0 || high / low > 1 + search.precision) {
    const Result<bool> passed = passes(load);
    if (!passed) return Error(passed.error());
    if (*passed && load >= search.highest) return search.highest;
    if (!*passed && load <= search.lowest) return 0;
    (*passed ? low : high) = load;
    if (low != 0 && high != 0) {
      load = std::sqrt(low * high);
    } else {
      load = *passed ? std::fmin(load * step, search.highest) : std::fmax(load / step, search.lowest);
      step *= step;
    }
  }
  return low;
}

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_LIMIT_H_
