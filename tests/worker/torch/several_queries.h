// Jobs of several queries and of queries that do not fill their bucket: what every TorchRuntime must do with them.
#ifndef ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_
#define ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_

#include "models/model_spec.h"
#include "worker/torch/torch_runtime.h"

namespace abacus::test {

// Queries of different rows and lengths in one bucket, cut and uncut, get bit for bit what each gets alone. The model
// is MakeRowwise's.
void ExpectOutputsOfEachAlone(TorchRuntime& runtime, const ModelSpec& spec);

// What no query fills is the declared padding, whatever ran before. The model is MakeWholeBatch's.
void ExpectNothingButPadding(TorchRuntime& runtime, const ModelSpec& spec);

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_
