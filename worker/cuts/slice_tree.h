// SliceTree: the ranges of one bucket that are prepared at load, so that any range runs without preparing another.
//
// A binary tree over the intervals between cut points: all of them, the halves, the quarters, down to single intervals;
// 2n - 1 slices for n intervals. Every range between two cut points is a chain of at most 2 log2 n slices, found here.
//
// Thread rule: constant after construction.
#ifndef ABACUS_WORKER_CUTS_SLICE_TREE_H_
#define ABACUS_WORKER_CUTS_SLICE_TREE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace abacus {

class SliceTree {
 public:
  // Operators [first, last). The children of slice i are slices `left` and `right`; 0 where it is a single interval.
  struct Slice {
    uint32_t first = 0;
    uint32_t last = 0;
    uint32_t left = 0;
    uint32_t right = 0;
  };

  SliceTree() = default;
  // `cuts` as in BucketRanges: two or more, ascending.
  explicit SliceTree(std::span<const uint32_t> cuts);

  // The whole comes first, every slice before its children.
  const std::vector<Slice>& slices() const { return slices_; }
  // The shortest sequence of slices (indices) that are [first, last) one after another. Empty unless both are cuts and
  // first < last.
  std::vector<uint32_t> Chain(uint32_t first, uint32_t last) const;

 private:
  uint32_t Add(std::span<const uint32_t> cuts);
  // Appends the slices under `index` that make up its part of [first, last). False: an end is not a cut.
  bool Append(uint32_t index, uint32_t first, uint32_t last, std::vector<uint32_t>* chain) const;

  std::vector<Slice> slices_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUTS_SLICE_TREE_H_
