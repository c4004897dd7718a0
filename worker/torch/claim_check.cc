#include "worker/torch/claim_check.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr uint64_t kSeed = 401;
constexpr uint64_t kOtherSeed = 402;

bool HasBatch(const TensorSpec& tensor) { return tensor.dims.rank() > 0 && tensor.dims[0] == kBatchDim; }

bool SameBits(const Tensors& a, const Tensors& b) {
  return std::ranges::equal(a, b, [](const at::Tensor& x, const at::Tensor& y) { return abacus::SameBits(x, y); });
}

// What row `row` is answered: itself where there is a batch dimension, else all.
at::Tensor RowOf(const TensorSpec& tensor, const at::Tensor& output, int64_t row) {
  return HasBatch(tensor) ? output.select(0, row) : output;
}

// `base`, of which every row but `row` is replaced by that of `other`.
Tensors OtherRows(const ModelSpec& spec, const Tensors& base, const Tensors& other, int64_t row) {
  Tensors mixed;
  for (size_t i = 0; i < base.size(); ++i) {
    if (!HasBatch(spec.inputs[i])) {
      mixed.push_back(base[i]);
      continue;
    }
    mixed.push_back(other[i].clone());
    mixed.back().select(0, row).copy_(base[i].select(0, row));
  }
  return mixed;
}

// `base`, of whose floats without a declared range every row but `row` is NaN.
Tensors NanRows(const ModelSpec& spec, const Tensors& base, int64_t row) {
  Tensors other;
  for (size_t i = 0; i < base.size(); ++i) {
    const bool may_be_nan = !InfoOf(spec.inputs[i].dtype).integer && !spec.inputs[i].float_range;
    other.push_back(may_be_nan ? base[i].clone().fill_(std::numeric_limits<double>::quiet_NaN()) : base[i]);
  }
  return OtherRows(spec, base, other, row);
}

Status Invalid(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Status ClaimCheck::CheckState() const {
  const Bucket bucket = spec_.bucket(0);
  const Tensors inputs = MakeSampleInputs(spec_, bucket, kSeed);
  const Result<Tensors> first = serving_(inputs);
  if (!first) return first.error();
  std::vector<SampleScale> scales = ScalesOf(spec_);
  if (usual_only_) scales.resize(1);
  for (const SampleScale scale : {scales.front(), scales.back()}) {
    (void)serving_(MakeSampleInputs(spec_, bucket, kOtherSeed, scale));  // what it answers does not matter
  }
  const Result<Tensors> again = serving_(inputs);
  if (!again) return again.error();
  if (SameBits(*first, *again)) return Status::Ok();

  const Result<Tensors> repeated = serving_(inputs);
  if (!repeated) return repeated.error();
  if (SameBits(*again, *repeated)) {
    return Invalid(
        "the same query gets another answer after other queries: the model keeps state; export it again without state");
  }
  // Kernels that add in no fixed order differ in the last bits.
  const BucketPlan plan = PlanShape(spec_, bucket, kSeed);
  for (const Tensors* other : {&*again, &*repeated}) {
    if (const Result<double> close = CompareOutputs(plan, *first, *other, spec_.tolerance); !close) {
      return Invalid("the same query gets another answer every time: the model draws random numbers or keeps state (" +
                     close.error().message() + "); export it again without");
    }
  }
  return Status::Ok();
}

Status ClaimCheck::CheckBatch() const {
  if (!spec_.batchable) return Status::Ok();
  std::vector<int64_t> sizes;  // the smallest with several rows, and the largest
  for (const int64_t batch : spec_.batch_sizes) {
    if (batch > 1 && sizes.empty()) sizes.push_back(batch);
  }
  if (sizes.empty()) return Status::Ok();
  if (spec_.batch_sizes.back() != sizes.front()) sizes.push_back(spec_.batch_sizes.back());
  const int64_t sequence = spec_.has_sequence() ? spec_.sequence_lengths.front() : 0;
  for (const int64_t batch : sizes) ABACUS_RETURN_IF_ERROR(CheckRows({batch, sequence}, batch == sizes.front()));
  return Status::Ok();
}

Status ClaimCheck::CheckRows(const Bucket& bucket, bool thorough) const {
  const Tensors inputs = MakeSampleInputs(spec_, bucket, kSeed);
  const Result<Tensors> base = serving_(inputs);
  if (!base) return base.error();
  const int64_t last = bucket.batch - 1;
  const auto compare = [&](int64_t row, const Tensors& changed, bool usual) {
    return CompareRow(bucket, row, *base, changed, usual);
  };
  const Tensors others = MakeSampleInputs(spec_, bucket, kOtherSeed);
  ABACUS_RETURN_IF_ERROR(compare(0, OtherRows(spec_, inputs, others, 0), true));
  if (thorough) {
    ABACUS_RETURN_IF_ERROR(compare(last, OtherRows(spec_, inputs, others, last), true));
    const SampleScale largest = ScalesOf(spec_).back();
    if (!usual_only_ && largest != SampleScale::kNormal) {
      const Tensors far = MakeSampleInputs(spec_, bucket, kOtherSeed, largest);
      ABACUS_RETURN_IF_ERROR(compare(last, OtherRows(spec_, inputs, far, last), false));
    }
    // Values of one sign, too: a question to all rows at once may be answered by rows of both signs alone.
    if (const auto scales = ScalesOf(spec_);
        !usual_only_ && std::ranges::find(scales, SampleScale::kUnit) != scales.end()) {
      const Tensors positive = MakeSampleInputs(spec_, bucket, kSeed, SampleScale::kUnit);
      if (const Result<Tensors> answers = serving_(positive)) {
        for (const Tensors& changed : {OtherRows(spec_, positive, others, last), NanRows(spec_, positive, last)}) {
          ABACUS_RETURN_IF_ERROR(CompareRow(bucket, last, *answers, changed, false));
        }
      }
    }
    if (!usual_only_) {
      for (const int64_t row : {int64_t{0}, last}) {
        ABACUS_RETURN_IF_ERROR(compare(row, NanRows(spec_, inputs, row), false));
      }
    }
  }
  // A query of fewer rows, padded: against other rows bit by bit, and against itself alone.
  const Bucket query{spec_.batch_sizes.front() < bucket.batch ? spec_.batch_sizes.front() : 1, bucket.sequence};
  const Tensors front = TrimInputs(spec_, query, inputs);
  ABACUS_RETURN_IF_ERROR(compare(0, PadInputs(spec_, bucket, query, front), true));
  const Status alone = ComparePadded(bucket, query);
  if (alone.ok()) return alone;
  return Invalid(c10::str("rows of a batch depend on how many there are (", alone.message(),
                          "); export it again, or say batchable = false in ", spec_.toml_path.string()));
}

Status ClaimCheck::CompareRow(const Bucket& bucket, int64_t row, const Tensors& base, const Tensors& inputs,
                              bool usual) const {
  const Result<Tensors> outputs = serving_(inputs);
  if (!outputs) return usual ? outputs.error() : Status::Ok();
  for (size_t i = 0; i < outputs->size(); ++i) {
    const TensorSpec& output = spec_.outputs[i];
    const at::Tensor expected = RowOf(output, base[i], row);
    const at::Tensor actual = RowOf(output, (*outputs)[i], row);
    if (abacus::SameBits(expected, actual)) continue;
    // The lengths of other rows decide how a packed sequence is multiplied, for one: that moves the last bits.
    if (CompareOutput("", expected, actual, spec_.tolerance)) continue;
    return Invalid(c10::str("rows of a batch depend on each other (row ", row, " of output \"", output.name,
                            "\" changed when other rows did, at batch ", bucket.batch,
                            "); export it again, or say batchable = false in ", spec_.toml_path.string()));
  }
  return Status::Ok();
}

Status ClaimCheck::CheckSequence() const {
  if (!spec_.has_sequence() || spec_.sequence_padding != SequencePadding::kHarmless) return Status::Ok();
  const auto check = [this](int64_t from, int64_t to) {
    const int64_t batch = spec_.batch_sizes.front();
    const Status status = ComparePadded({batch, to}, {batch, from});
    if (status.ok()) return status;
    return Invalid(c10::str("padding along the sequence changes the answer (", status.message(),
                            "); export it again, or say sequence_padding = \"exact\" under [buckets] of ",
                            spec_.toml_path.string()));
  };
  const int64_t shortest = spec_.sequence_lengths.front();
  const int64_t longest = spec_.sequence_lengths.back();
  for (const int64_t length : spec_.sequence_lengths) {
    if (length < longest) ABACUS_RETURN_IF_ERROR(check(length, longest));
  }
  return shortest > 1 ? check((shortest + 1) / 2, shortest) : Status::Ok();
}

Status ClaimCheck::ComparePadded(const Bucket& bucket, const Bucket& query) const {
  const BucketPlan plan = PlanShape(spec_, query, kSeed);
  const bool is_bucket = std::ranges::binary_search(spec_.batch_sizes, query.batch) &&
                         (!spec_.has_sequence() || std::ranges::binary_search(spec_.sequence_lengths, query.sequence));
  const Result<Tensors> alone = is_bucket ? serving_(plan.sample) : plain_(plan.sample);
  if (!alone || !CheckOutputs(plan, *alone).ok()) return is_bucket && !alone ? alone.error() : Status::Ok();
  const Result<Tensors> padded = serving_(PadInputs(spec_, bucket, query, plan.sample));
  if (!padded) return padded.error();
  const Result<double> difference = CompareOutputs(plan, *alone, TrimOutputs(spec_, query, *padded), spec_.tolerance);
  if (difference) return Status::Ok();
  const std::string to = spec_.has_sequence() ? c10::str("batch ", bucket.batch, ", sequence ", bucket.sequence)
                                              : c10::str("batch ", bucket.batch);
  return Invalid(c10::str("padded to ", to, ", ", difference.error().message()));
}

}  // namespace abacus
