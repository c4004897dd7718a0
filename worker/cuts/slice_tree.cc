#include "worker/cuts/slice_tree.h"

#include <algorithm>

namespace abacus {
namespace {

constexpr size_t kUsualChain = 16;  // a range of 256 intervals is 2 * 7 slices at most: one allocation

}  // namespace

SliceTree::SliceTree(std::span<const uint32_t> cuts) { Add(cuts); }

uint32_t SliceTree::Add(std::span<const uint32_t> cuts) {
  const auto index = static_cast<uint32_t>(slices_.size());
  slices_.push_back({cuts.front(), cuts.back()});
  const size_t intervals = cuts.size() - 1;
  if (intervals > 1) {
    const uint32_t left = Add(cuts.first(intervals / 2 + 1));
    const uint32_t right = Add(cuts.subspan(intervals / 2));
    slices_[index].left = left;
    slices_[index].right = right;
  }
  return index;
}

std::vector<uint32_t> SliceTree::Chain(uint32_t first, uint32_t last) const {
  std::vector<uint32_t> chain;
  chain.reserve(kUsualChain);
  if (slices_.empty() || first < slices_[0].first || first >= last || last > slices_[0].last ||
      !Append(0, first, last, &chain)) {
    chain.clear();
  }
  return chain;
}

bool SliceTree::Append(uint32_t index, uint32_t first, uint32_t last, std::vector<uint32_t>* chain) const {
  const Slice& slice = slices_[index];
  if (last <= slice.first || first >= slice.last) return true;
  if (first <= slice.first && slice.last <= last) {
    chain->push_back(index);
    return true;
  }
  return slice.left != 0 && Append(slice.left, first, last, chain) && Append(slice.right, first, last, chain);
}

}  // namespace abacus
