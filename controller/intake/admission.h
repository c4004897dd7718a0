// Admission: checks a decoded request against the model it names.
//
// Everything that could harm a worker or a batch-mate is caught here: wrong dtype, rank, shape or byte count, a batch
// or sequence outside the buckets or not exactly one of theirs where padding would change the answers, values outside
// the declared range (an out-of-range index on a GPU kills every MPS client). Nothing is allocated and nothing is
// copied before a request has passed.
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

// `payloads`: the frames behind the header, in the request's order. *out keeps its capacity between calls.
tl::expected<void, Rejection> Admit(const ModelSpec& spec, const protocol::Request& request,
                                    std::span<const std::span<const std::byte>> payloads, Admitted* out);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_ADMISSION_H_
