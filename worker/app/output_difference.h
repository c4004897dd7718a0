// How outputs of a model are compared beyond a tolerance (torch_tensors.h has that): bit by bit, and where a query
// holds NaN or infinities.
//
// Thread rule: pure functions. Tensors lie in host memory; both sides have the same number, dtypes and shapes.
#ifndef ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_
#define ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/status.h"
#include "worker/torch/bucket_plan.h"

namespace abacus {

// 0 when all outputs are the same bit by bit, else the largest |a - b|; infinity where that is not a number, or where
// only the bits differ. One NaN is as good as another.
double MaxDifference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

// For a query with NaN or infinities. The largest relative difference of what is finite on both sides. Error: the plain
// module answers NaN or an infinity where the served one answers a number, or numbers differ beyond the tolerance. That
// the served one answers NaN in more places is none: a convolution that computes whole tiles spreads it. Integers,
// which may count such places or name the first, are not compared.
Result<double> CompareNonFinite(const BucketPlan& plan, const std::vector<at::Tensor>& plain,
                                const std::vector<at::Tensor>& served, double tolerance);

// Whether all elements of the floating-point tensors are numbers.
bool AreFinite(const std::vector<at::Tensor>& tensors);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_
