// Any bytes as a model's TOML: an error or a spec whose buckets and layouts hold together, never a crash.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/model_spec.h"
#include "models/tensor_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto spec = abacus::ParseModelSpec({reinterpret_cast<const char*>(data), size}, "/models/fuzz.toml");
  if (!spec) {
    if (spec.error().message().find("/models/fuzz.toml:") != 0) std::abort();
    return 0;
  }
  if (spec->bucket_count() == 0 || spec->bucket_count() > abacus::kMaxBuckets) std::abort();
  for (const abacus::TensorSpec& input : spec->inputs) {
    const auto& range = input.range;
    if (range && range->low > range->high) std::abort();
    if (range && range->to_sequence && (!spec->has_sequence() || range->low > spec->sequence_lengths[0])) std::abort();
    if (input.float_range && !(input.float_range->low <= input.float_range->high)) std::abort();
  }
  for (const abacus::OperatorLibrary& library : spec->libraries) {
    if (library.sha256.size() != 64 || library.file.string().find("/models/") != 0) std::abort();
  }
  for (size_t i = 0; i < spec->bucket_count(); ++i) {
    const abacus::Bucket bucket = spec->bucket(i);
    if (spec->FindBucket(bucket.batch, bucket.sequence) != i) std::abort();
    const abacus::TensorLayout layout = abacus::LayoutOf(*spec, bucket);
    if (layout.inputs.size() != spec->inputs.size() || layout.outputs.size() != spec->outputs.size()) std::abort();
    uint64_t end = 0;
    for (const auto* extents : {&layout.inputs, &layout.outputs}) {
      for (const abacus::TensorExtent& extent : *extents) {
        if (extent.bytes == 0 || extent.offset_bytes < end) std::abort();
        end = extent.offset_bytes + extent.bytes;
      }
    }
    if (end > layout.total_bytes || layout.total_bytes >= (uint64_t{1} << 40)) std::abort();
  }
  return 0;
}
