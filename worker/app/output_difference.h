// How outputs of a model are compared bit by bit; torch_tensors.h compares them within a tolerance.
//
// Thread rule: pure functions. Tensors lie in host memory; both sides have the same number, dtypes and shapes.
#ifndef ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_
#define ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_

#include <ATen/core/Tensor.h>

#include <vector>

namespace abacus {

// 0 when all outputs are the same bit by bit, else the largest |a - b|; infinity where that is not a number, or where
// only the bits differ. One NaN is as good as another.
double MaxDifference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

// Whether all elements of the floating-point tensors are numbers.
bool AreFinite(const std::vector<at::Tensor>& tensors);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_OUTPUT_DIFFERENCE_H_
