// What a model does with integers that nobody declared a range for.
//
// Thread rule: the bench's thread.
#ifndef ABACUS_WORKER_APP_INDEX_TRIAL_H_
#define ABACUS_WORKER_APP_INDEX_TRIAL_H_

#include <cstdint>
#include <string>
#include <vector>

namespace abacus {

class ModelBench;

// Runs a bucket with -1 and with a large number in each integer input without a declared range, and says in a line per
// input what happens. For models on the CPU, whose operators check indices, and to be done last all the same. Models
// with loops are not tried, since the number may be how often one runs; nor may the model allocate much memory while it
// is tried.
std::vector<std::string> TryIndices(ModelBench& bench, uint32_t bucket);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_INDEX_TRIAL_H_
