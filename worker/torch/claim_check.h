// Checks, on what is about to serve, the claims that a description makes about its model and that batching and padding
// rest on. The exporter measured them at length; this is the short form, again, because a wrong claim gives wrong
// answers with status OK.
//
//   no state     the same query gives the same answer, whatever was asked in between
//   batchable    a row's answer depends neither on the other rows (other values, padding, NaN) nor on how many there
//   are harmless     a query that is padded along the sequence gets the answer that it gets at its own length
//
// Thread rule: one thread. Errors: INVALID_ARGUMENT without the model's name, with the key of NAME.toml that would
// admit what was found.
#ifndef ABACUS_WORKER_TORCH_CLAIM_CHECK_H_
#define ABACUS_WORKER_TORCH_CLAIM_CHECK_H_

#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/torch/bucket_plan.h"
#include "worker/torch/load_check.h"

namespace abacus {

class ClaimCheck {
 public:
  // `serving` is what serves; `plain` the module as exported, for shapes that are no bucket's. `usual_only`: no inputs
  // but those of the first scale. All outlive the check.
  ClaimCheck(const ModelSpec& spec, const RunFn& serving, const RunFn& plain, bool usual_only)
      : spec_(spec), serving_(serving), plain_(plain), usual_only_(usual_only) {}

  Status CheckState() const;
  Status CheckBatch() const;
  Status CheckSequence() const;

 private:
  // Keeps one row and replaces the others in every way, at this batch size and the shortest length.
  Status CheckRows(const Bucket& bucket, bool thorough) const;
  // Error: row `row` of what `inputs` give is not, within the tolerance, what it is in `base`. Not `usual`: inputs that
  // the model may refuse.
  Status CompareRow(const Bucket& bucket, int64_t row, const std::vector<at::Tensor>& base,
                    const std::vector<at::Tensor>& inputs, bool usual) const;
  // Error: `query`, padded to `bucket`, does not get what it gets alone. Where its shape is no bucket's, the plain
  // module is asked, which need not accept it.
  Status ComparePadded(const Bucket& bucket, const Bucket& query) const;

  const ModelSpec& spec_;
  const RunFn& serving_;
  const RunFn& plain_;
  const bool usual_only_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_CLAIM_CHECK_H_
