#include "worker/torch/small_rows.h"

namespace abacus {

SmallRows SmallRowsOf(const std::vector<TensorSpec>& tensors, const Bucket& bucket) {
  SmallRows small;
  for (const TensorSpec& tensor : tensors) {
    // Not empty: the parser bounded the largest bucket.
    const uint64_t bytes =
        ShapeAt(tensor, bucket.batch, bucket.sequence).Elements().value_or(0) * DTypeBytes(tensor.dtype);
    const uint64_t rows = HasDim(tensor, kBatchDim) ? static_cast<uint64_t>(bucket.batch) : 1;
    if (bytes / rows > kSmallRowBytes) {
      small.tensors.emplace_back();
      continue;
    }
    small.tensors.emplace_back(TensorExtent{small.bytes, bytes});
    small.bytes += TensorAligned(bytes);
  }
  return small;
}

}  // namespace abacus
