#include "controller/intake/admission.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "controller/intake/value_range.h"
#include "models/tensor_layout.h"
#include "shm/layout.h"

namespace abacus {
namespace {

using protocol::Request;
using protocol::TensorHeader;

tl::unexpected<Rejection> Reject(std::string field, std::string message) {
  return tl::unexpected<Rejection>({StatusCode::kInvalidArgument, std::move(field), std::move(message)});
}

std::string InputPath(size_t index, const char* member = "") {
  return "inputs[" + std::to_string(index) + "]" + member;
}

std::string DimsText(const TensorSpec& spec) { return fmt::format("[{}]", fmt::join(DimNames(spec), ", ")); }

// Reads batch and sequence off one tensor, or checks them against what earlier tensors said.
tl::expected<void, Rejection> MatchShape(const TensorSpec& spec, const TensorHeader& tensor, size_t index,
                                         Admitted* out) {
  const std::string path = InputPath(index, ".shape");
  if (tensor.shape.rank() != spec.dims.rank()) {
    return Reject(path, spec.name + " has shape " + tensor.shape.ToString() + ", expected " + DimsText(spec));
  }
  for (size_t d = 0; d < spec.dims.rank(); ++d) {
    const int64_t want = spec.dims[d];
    const int64_t got = tensor.shape[d];
    if (want >= 0) {
      if (got != want) {
        return Reject(path, spec.name + " has shape " + tensor.shape.ToString() + ", expected " + DimsText(spec));
      }
      continue;
    }
    int64_t& size = want == kBatchDim ? out->batch : out->sequence;
    const char* what = want == kBatchDim ? "batch" : "sequence";
    if (got < 1)
      return Reject(path, std::string(what) + " of " + spec.name + " is " + std::to_string(got) + "; at least 1");
    if (size == 0) {
      size = got;
    } else if (size != got) {
      return Reject(path, std::string(what) + " of " + spec.name + " is " + std::to_string(got) +
                              ", but another input has " + std::to_string(size));
    }
  }
  return {};
}

tl::expected<void, Rejection> MatchInputs(const ModelSpec& spec, const Request& request,
                                          std::span<const std::span<const std::byte>> payloads, Admitted* out) {
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const TensorHeader& tensor = request.inputs[i];
    size_t s = 0;
    while (s < spec.inputs.size() && spec.inputs[s].name != tensor.name) ++s;
    if (s == spec.inputs.size()) {
      return Reject(InputPath(i, ".name"), spec.name + " has no input '" + tensor.name + "'");
    }
    if (out->input_order[s] != UINT32_MAX) {
      return Reject(InputPath(i, ".name"), "input '" + tensor.name + "' is given twice");
    }
    out->input_order[s] = static_cast<uint32_t>(i);
    if (tensor.dtype != spec.inputs[s].dtype) {
      return Reject(InputPath(i, ".dtype"), tensor.name + " is " + std::string(DTypeName(tensor.dtype)) +
                                                ", expected " + std::string(DTypeName(spec.inputs[s].dtype)));
    }
    if (auto matched = MatchShape(spec.inputs[s], tensor, i, out); !matched) return matched;
    const auto elements = tensor.shape.Elements();
    if (!elements || *elements * DTypeBytes(tensor.dtype) != payloads[i].size()) {
      return Reject(InputPath(i), tensor.name + " came with " + std::to_string(payloads[i].size()) + " bytes, but " +
                                      tensor.shape.ToString() + " of " + std::string(DTypeName(tensor.dtype)) +
                                      " takes " +
                                      (elements ? std::to_string(*elements * DTypeBytes(tensor.dtype)) : "too many"));
    }
  }
  for (size_t s = 0; s < spec.inputs.size(); ++s) {
    if (out->input_order[s] == UINT32_MAX) return Reject("inputs", "input '" + spec.inputs[s].name + "' is missing");
  }
  return {};
}

// Batch and sequence against the buckets. A synthetic query has named them itself.
tl::expected<void, Rejection> CheckSizes(const ModelSpec& spec, bool synthetic, const Admitted& admitted) {
  const char* const batch_field = synthetic ? "synthetic.batch" : "inputs";
  const char* const sequence_field = synthetic ? "synthetic.sequence" : "inputs";
  const int64_t batch = admitted.batch, sequence = admitted.sequence;
  if (spec.has_sequence() && sequence == 0) return Reject(sequence_field, spec.name + " needs a sequence length");
  if (!spec.has_sequence() && sequence != 0) return Reject(sequence_field, spec.name + " has no sequence dimension");
  if (batch < 1) return Reject(batch_field, "the batch size must be at least 1");
  const auto among = [](const std::vector<int64_t>& sizes, int64_t size) {
    return std::binary_search(sizes.begin(), sizes.end(), size);
  };
  if (!spec.batchable && !among(spec.batch_sizes, batch)) {
    return Reject(batch_field,
                  fmt::format("batch {}: rows of a batch of {} depend on each other, so only batches of {} "
                              "are served",
                              batch, spec.name, fmt::join(spec.batch_sizes, ", ")));
  }
  const int64_t largest = spec.batch_sizes.back();
  if (!MayBeSplit(spec) && batch > largest) {
    return Reject(batch_field,
                  fmt::format("batch {} is above the largest bucket of {} ({})", batch, spec.name, largest));
  }
  static_assert(kMaxQueryParts == protocol::kMaxQueryParts, "clients go by the protocol");
  constexpr auto kParts = static_cast<int64_t>(kMaxQueryParts);
  if (batch > largest * kParts) {
    return Reject(batch_field, fmt::format("batch {} is above {} times the largest bucket of {} ({}); send several "
                                           "queries",
                                           batch, kParts, spec.name, largest));
  }
  if (!spec.has_sequence()) return {};
  if (spec.sequence_padding == SequencePadding::kExact && !among(spec.sequence_lengths, sequence)) {
    return Reject(sequence_field,
                  fmt::format("sequence {}: padding would change the answers of {}; served lengths are {}", sequence,
                              spec.name, fmt::join(spec.sequence_lengths, ", ")));
  }
  if (sequence > spec.sequence_lengths.back()) {
    return Reject(sequence_field, fmt::format("sequence {} is above the largest bucket of {} ({})", sequence, spec.name,
                                              spec.sequence_lengths.back()));
  }
  return {};
}

}  // namespace

tl::expected<void, Rejection> Admit(const ModelSpec& spec, const Request& request,
                                    std::span<const std::span<const std::byte>> payloads, Admitted* out) {
  out->batch = 0;
  out->sequence = 0;
  out->input_order.clear();
  if (request.synthetic) {
    if (!payloads.empty()) return Reject("synthetic", "a synthetic query carries no tensor frames");
    out->batch = request.batch;
    out->sequence = request.sequence;
  } else {
    if (payloads.size() != request.inputs.size()) {
      return Reject("inputs", "the header lists " + std::to_string(request.inputs.size()) +
                                  " tensors, but there are bytes for " + std::to_string(payloads.size()) +
                                  ": each takes one frame, or a place in a leased region");
    }
    out->input_order.assign(spec.inputs.size(), UINT32_MAX);
    if (auto matched = MatchInputs(spec, request, payloads, out); !matched) return matched;
    if (out->batch == 0) out->batch = 1;  // a model without a batch dimension
  }
  return CheckSizes(spec, request.synthetic, *out);
}

tl::expected<void, Rejection> CheckValues(const ModelSpec& spec, const Admitted& admitted,
                                          std::span<const std::span<const std::byte>> inputs) {
  for (size_t s = 0; s < spec.inputs.size(); ++s) {
    const TensorSpec& input = spec.inputs[s];
    std::optional<OutOfRange> bad;
    std::string allowed;
    if (input.range || input.dtype == DType::kBool) {  // no other byte is a boolean
      IntRange range = input.range.value_or(IntRange{0, 1});
      if (range.to_sequence) range.high = admitted.sequence;
      bad = FindOutOfRange(inputs[s], input.dtype, range);
      if (bad) allowed = fmt::format("{} to {}", range.low, range.high);
      if (bad && range.to_sequence) allowed += ", the length of this query's sequence";
    } else if (input.float_range) {
      bad = FindOutOfRange(inputs[s], input.dtype, *input.float_range);
      if (bad) allowed = fmt::format("{} to {}", input.float_range->low, input.float_range->high);
    }
    if (bad) {
      return Reject(InputPath(admitted.input_order[s]),
                    fmt::format("{}[{}] is {}, allowed are {}", input.name, bad->index, bad->value, allowed));
    }
  }
  return {};
}

}  // namespace abacus
