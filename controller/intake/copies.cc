#include "controller/intake/copies.h"

#include <cstring>
#include <utility>

namespace abacus {
namespace {

tl::expected<void, Rejection> CopyInputs(const ModelSpec& spec, const TensorLayout& layout, std::byte* block,
                                         const TensorCopy& copy) {
  boost::container::static_vector<std::span<const std::byte>, kMaxTensorsPerSide> copied;
  for (size_t i = 0; i < layout.inputs.size(); ++i) {
    const TensorExtent& extent = layout.inputs[i];
    // Admission has checked that there are exactly these bytes.
    std::memcpy(block + extent.offset_bytes, copy.sources[copy.admitted.input_order[i]].bytes().data(), extent.bytes);
    copied.emplace_back(block + extent.offset_bytes, extent.bytes);
  }
  return CheckValues(spec, copy.admitted, {copied.data(), copied.size()});
}

void CopyOutputs(const TensorLayout& layout, const std::byte* block, const OutputPlace& place) {
  const OutputOffsets offsets = OutputOffsetsAt(layout, place.offset_bytes);
  for (size_t i = 0; i < layout.outputs.size(); ++i) {
    std::memcpy(place.region->bytes().data() + offsets[i], block + layout.outputs[i].offset_bytes,
                layout.outputs[i].bytes);
  }
}

}  // namespace

OutputOffsets OutputOffsetsAt(const TensorLayout& layout, uint64_t begin_bytes, uint64_t* total_bytes) {
  OutputOffsets offsets;
  uint64_t end = 0, next = 0;
  for (const TensorExtent& output : layout.outputs) {
    offsets.push_back(begin_bytes + next);
    end = next + output.bytes;
    next = (end + protocol::kOutputAlignBytes - 1) / protocol::kOutputAlignBytes * protocol::kOutputAlignBytes;
  }
  if (total_bytes != nullptr) *total_bytes = end;
  return offsets;
}

void RunCopy(const Query& query, std::span<std::byte> arena, TensorCopy* copy) {
  const ModelSpec& spec = query.service->config.spec;
  const TensorLayout layout = LayoutOf(spec, query.rows, query.sequence);
  std::byte* const block = arena.data() + query.block.offset_bytes;
  if (copy->outputs()) {
    CopyOutputs(layout, block, copy->place);
  } else if (auto copied = CopyInputs(spec, layout, block, *copy); !copied) {
    copy->rejection = std::move(copied.error());
  }
  copy->sources.clear();  // here, not on the front end's thread: freeing a large frame takes its time
}

}  // namespace abacus
