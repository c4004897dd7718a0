#include "worker/app/cases.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include "base/npy.h"
#include "worker/app/model_bench.h"
#include "worker/torch/bucket_plan.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

struct RecordedTensor {
  fs::path file;
  NpyArray array;
};

Status Refuse(const fs::path& file, const std::string& what) {
  return {StatusCode::kInvalidArgument, file.string() + ": " + what};
}

// "float32 ["batch", 3]"
std::string Declared(const TensorSpec& tensor) {
  return c10::str(DTypeName(tensor.dtype), " [", c10::Join(", ", DimNames(tensor)), "]");
}

// NumPy has no bfloat16: such tensors are recorded as float32.
bool HasType(const TensorSpec& tensor, DType dtype) {
  return dtype == tensor.dtype || (tensor.dtype == DType::kBFloat16 && dtype == DType::kFloat32);
}

// Takes the size of a dimension over where it is the first of its symbol.
bool Matches(int64_t declared, int64_t size, Bucket* query, bool* batch_known) {
  if (declared == kBatchDim) {
    if (!std::exchange(*batch_known, true)) query->batch = size;
    return size == query->batch && size > 0;
  }
  if (declared == kSequenceDim) {
    if (query->sequence == 0) query->sequence = size;
    return size == query->sequence && size > 0;
  }
  return size == declared;
}

Result<std::vector<RecordedTensor>> ReadTensors(const fs::path& folder, const std::vector<TensorSpec>& tensors,
                                                Bucket* query, bool* batch_known) {
  std::vector<RecordedTensor> recorded;
  for (const TensorSpec& tensor : tensors) {
    const fs::path file = folder / (tensor.name + ".npy");
    Result<NpyArray> array = ReadNpyArray(file);
    if (!array) return Error(array.error());
    const Shape& shape = array->shape;
    bool fits = HasType(tensor, array->dtype) && shape.rank() == tensor.dims.rank();
    for (size_t d = 0; fits && d < shape.rank(); ++d) fits = Matches(tensor.dims[d], shape[d], query, batch_known);
    if (!fits) {
      return Error(Refuse(file, c10::str("is ", DTypeName(array->dtype), " ", shape.ToString(), "; \"", tensor.name,
                                         "\" of the model is ", Declared(tensor),
                                         ", with one batch and one sequence for all tensors of a case")));
    }
    recorded.push_back({file, std::move(*array)});
  }
  return recorded;
}

// With memory of its own.
at::Tensor ToTensor(const RecordedTensor& recorded, const TensorPlan& plan) {
  const bool widened = recorded.array.dtype == DType::kFloat32 && plan.dtype == at::kBFloat16;
  auto* data = const_cast<std::byte*>(recorded.array.bytes.data());  // from_blob takes no const; it is only read
  return at::from_blob(data, plan.sizes, at::TensorOptions(widened ? at::kFloat : plan.dtype))
      .to(plan.dtype, /*non_blocking=*/false, /*copy=*/true);
}

// What a server refuses, because the model may do harm with it.
Status CheckRange(const TensorSpec& spec, const RecordedTensor& recorded, const at::Tensor& input, int64_t sequence) {
  if (input.numel() == 0) return Status::Ok();
  if (spec.range) {
    const int64_t high = spec.range->to_sequence ? sequence : spec.range->high;
    const at::Tensor values = input.to(at::kLong);
    if (values.min().item<int64_t>() >= spec.range->low && values.max().item<int64_t>() <= high) return Status::Ok();
    return Refuse(recorded.file, c10::str("holds values outside of the declared range [", spec.range->low, ", ", high,
                                          "]; a server refuses them"));
  }
  if (spec.float_range) {
    const auto [low, high] = *spec.float_range;
    const auto bound = [&input](double value) { return at::scalar_tensor(value, input.options()); };
    if (input.ge(bound(low)).logical_and(input.le(bound(high))).all().item<bool>()) return Status::Ok();
    return Refuse(recorded.file, c10::str("holds values outside of the declared range [", low, ", ", high,
                                          "], or NaN; a server refuses them"));
  }
  return Status::Ok();
}

// By output.
Result<std::vector<double>> ReadTolerances(const fs::path& folder, const ModelSpec& spec) {
  std::vector<double> tolerances(spec.outputs.size(), spec.tolerance);
  const fs::path file = folder / "tolerance";
  if (!fs::exists(file)) return tolerances;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, rest;
    double value = 0;
    const bool good = words >> name >> value && !(words >> rest) && value >= 0;
    const auto output = std::ranges::find(spec.outputs, name, &TensorSpec::name);
    if (!good || output == spec.outputs.end()) {
      return Error(Refuse(file, c10::str("\"", line, "\" is not the name of an output and a tolerance")));
    }
    tolerances[static_cast<size_t>(output - spec.outputs.begin())] = value;
  }
  return tolerances;
}

// Adds to the report what the answers differ by.
void Compare(const BucketPlan& plan, const std::vector<at::Tensor>& expected, const std::vector<at::Tensor>& actual,
             const std::vector<double>& tolerances, CaseReport* report) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string where = c10::str("output \"", plan.outputs[i].name, "\" at ", plan.label);
    const Result<double> difference = CompareOutput(where, expected[i], actual[i], tolerances[i]);
    if (!difference) {
      if (report->error.empty()) report->error = difference.error().message();
      continue;
    }
    report->difference = std::max(report->difference, *difference);
    if (*difference > 0) report->of_tolerance = std::max(report->of_tolerance, *difference / tolerances[i]);
  }
}

}  // namespace

Result<std::vector<fs::path>> FindCases(const fs::path& dir) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (entry.is_directory()) folders.push_back(entry.path());
  }
  if (error) return Error(StatusCode::kNotFound, dir.string() + ": cannot be read: " + error.message());
  if (folders.empty()) {
    return Error(StatusCode::kNotFound, dir.string() +
                                            ": no case in it; a case is a folder with NAME.npy for every "
                                            "input and output of the model");
  }
  std::ranges::sort(folders);
  return folders;
}

Result<CaseReport> CheckCase(ModelBench& bench, const fs::path& folder) {
  const ModelSpec& spec = bench.spec();
  Bucket query;
  bool batch_known = false;
  const auto recorded_inputs = ReadTensors(folder, spec.inputs, &query, &batch_known);
  if (!recorded_inputs) return Error(recorded_inputs.error());
  const auto recorded_outputs = ReadTensors(folder, spec.outputs, &query, &batch_known);
  if (!recorded_outputs) return Error(recorded_outputs.error());

  const auto tolerances = ReadTolerances(folder, spec);
  if (!tolerances) return Error(tolerances.error());

  const BucketPlan plan = PlanShape(spec, query, /*seed=*/0);
  const std::optional<uint32_t> bucket = spec.FindBucket(query.batch, query.sequence);
  if (!bucket) {
    return Error(Refuse(folder, c10::str("no bucket of ", spec.toml_path.string(), " takes ", plan.label)));
  }
  std::vector<at::Tensor> inputs, expected;
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const RecordedTensor& recorded = (*recorded_inputs)[i];
    inputs.push_back(ToTensor(recorded, plan.inputs[i]));
    ABACUS_RETURN_IF_ERROR(CheckRange(spec.inputs[i], recorded, inputs.back(), query.sequence));
  }
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    expected.push_back(ToTensor((*recorded_outputs)[i], plan.outputs[i]));
  }

  CaseReport report;
  report.name = folder.filename().string();
  report.label = plan.label;
  report.bucket = *bucket;
  bench.SetQuery(query, inputs);
  const std::vector<uint32_t>& cuts = bench.ranges(*bucket).cuts;
  for (const std::vector<uint32_t>& chain : {std::vector<uint32_t>{}, {0, cuts.back()}, cuts}) {
    ABACUS_RETURN_IF_ERROR(bench.RunOther(*bucket));
    ABACUS_RETURN_IF_ERROR(bench.Run(*bucket, chain));
    Compare(plan, expected, bench.outputs(), *tolerances, &report);
  }
  return report;
}

}  // namespace abacus
