// Admission: checks a decoded request against the model it names.
//
// Everything that could harm a worker or a batch-mate is caught here: wrong dtype, rank, shape or byte count, a
// sequence outside the buckets, more rows than the largest batch times kMaxQueryParts (or than that batch, where a
// query cannot be run in parts), sizes that are not exactly those of a bucket where padding would change the answers.
// Nothing is allocated and nothing is copied before a request has passed. Values outside the declared range (an
// out-of-range index on a GPU kills every MPS client) are looked for in the copy, which the client cannot change any
// more.
//
// Thread rule: pure functions. Errors: a Rejection names the field by its path in the header.
#ifndef ABACUS_CONTROLLER_INTAKE_ADMISSION_H_
#define ABACUS_CONTROLLER_INTAKE_ADMISSION_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "client/protocol.h"
#include "models/model_spec.h"

namespace abacus {

struct Rejection {
  StatusCode code = StatusCode::kInvalidArgument;
  std::string field;
  std::string message;
};

struct Admitted {
  int64_t batch = 0;     // rows
  int64_t sequence = 0;  // 0: the model has no sequence dimension
  // request.inputs index of each input of the spec, in the spec's order. Empty for a synthetic query.
  std::vector<uint32_t> input_order;
};

// `payloads`: the bytes of the inputs, in the request's order; only their sizes are looked at. *out keeps its capacity
// between calls.
tl::expected<void, Rejection> Admit(const ModelSpec& spec, const protocol::Request& request,
                                    std::span<const std::span<const std::byte>> payloads, Admitted* out);

// The values of an admitted request. `inputs`: in the order of the spec.
tl::expected<void, Rejection> CheckValues(const ModelSpec& spec, const Admitted& admitted,
                                          std::span<const std::span<const std::byte>> inputs);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_ADMISSION_H_
