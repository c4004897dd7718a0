#include "client/load_plan.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <utility>

#include "base/text.h"

namespace abacus {
namespace {

constexpr double kMaxArrivals = 50e6;
constexpr uint64_t kPayloadStream = 0x9e3779b97f4a7c15u;  // of a seed, apart from its stream of arrivals

// Uniform numbers that are the same on every machine; the distributions of <random> are not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double Unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }  // [0, 1)
  uint64_t Bits() { return engine_(); }
  int64_t Between(int64_t low, int64_t high) {
    const uint64_t count = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
    const uint64_t offset = count == 0 ? engine_() : engine_() % count;
    return static_cast<int64_t>(static_cast<uint64_t>(low) + offset);
  }

 private:
  std::mt19937_64 engine_;
};

template <class T>
void Append(std::vector<std::byte>& bytes, T value) {
  const auto* begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(T));
}

// The 16-bit float nearest to `value` among those that lie between it and zero; the largest for one beyond.
uint16_t ToFloat16(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  int exponent = 0;
  std::frexp(value, &exponent);
  if (exponent > 16) return sign | 0x7bff;
  const int step = std::max(exponent, -13) - 11;  // of the last of 11 bits; smaller numbers have the smallest step
  const auto fraction = static_cast<uint16_t>(std::ldexp(std::abs(value), -step));
  return static_cast<uint16_t>(sign | (fraction < 0x400 ? fraction : ((step + 25) << 10) + (fraction & 0x3ff)));
}

float ToFloat32(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kLargest, kLargest));
}

uint16_t ToBFloat16(double value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(ToFloat32(value)) >> 16); }

// A random element that the model accepts: inside its declared range, else a small number.
void AppendElement(std::vector<std::byte>& bytes, const protocol::TensorDescription& input, int64_t sequence,
                   Random& random) {
  const auto integer = [&] {
    if (!input.has_range) return random.Between(0, 1);
    return random.Between(input.low, input.range_to_sequence ? std::max(input.low, sequence) : input.high);
  };
  // Away from the ends of the range, which rounding to the type could leave.
  const auto real = [&] {
    if (!input.has_float_range) return 2 * random.Unit() - 1;
    const double share = 0.05 + 0.9 * random.Unit();
    return input.float_low * (1 - share) + input.float_high * share;
  };
  switch (input.dtype) {
    case DType::kFloat32:
      return Append(bytes, ToFloat32(real()));
    case DType::kFloat64:
      return Append(bytes, real());
    case DType::kFloat16:
      return Append(bytes, ToFloat16(real()));
    case DType::kBFloat16:
      return Append(bytes, ToBFloat16(real()));
    case DType::kInt64:
      return Append(bytes, integer());
    case DType::kInt32:
      return Append(bytes, static_cast<int32_t>(integer()));
    case DType::kInt16:
      return Append(bytes, static_cast<int16_t>(integer()));
    case DType::kInt8:
      return Append(bytes, static_cast<int8_t>(integer()));
    case DType::kUInt8:
      return Append(bytes, static_cast<uint8_t>(integer()));
    case DType::kBool:
      return Append(bytes, static_cast<uint8_t>(random.Bits() & 1));
  }
}

// The size that stands for a dimension as the server describes it.
Result<int64_t> SizeOf(const std::string& dim, int64_t batch, int64_t sequence) {
  if (dim == "batch") return batch;
  if (dim == "sequence") return sequence;
  int64_t size = 0;
  const auto [end, error] = std::from_chars(dim.data(), dim.data() + dim.size(), size);
  if (error == std::errc() && end == dim.data() + dim.size()) return size;
  return Error(StatusCode::kInvalidArgument, "the server describes an unknown dimension '" + dim + "'");
}

Result<Tensor> RandomTensor(const protocol::TensorDescription& input, int64_t batch, int64_t sequence, Random& random) {
  const std::string who = "input '" + input.name + "'";
  Shape shape;
  for (const std::string& dim : input.dims) {
    const auto size = SizeOf(dim, batch, sequence);
    if (!size) return Error(size.error().WithContext(who));
    shape.push_back(*size);
  }
  const auto size_bytes = TensorBytes(input.dtype, shape);
  if (!size_bytes) return Error(StatusCode::kInvalidArgument, who + ": no tensor has the shape " + shape.ToString());
  std::vector<std::byte> bytes;
  bytes.reserve(*size_bytes);
  while (bytes.size() < *size_bytes) AppendElement(bytes, input, sequence, random);
  return Tensor::Own(input.name, input.dtype, shape, std::move(bytes));
}

Result<const protocol::ModelDescription*> FindModel(const std::vector<protocol::ModelDescription>& models,
                                                    const std::string& name) {
  const auto model = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.name == name; });
  if (model != models.end()) return &*model;
  std::string known;
  for (const auto& m : models) known += (known.empty() ? "" : ", ") + m.name;
  return Error(StatusCode::kUnknownModel, "no model '" + name + "'; the server has " + known);
}

// `most`: the largest size that is taken.
Status CheckSizes(const std::string& service, std::string_view what, std::span<const int64_t> asked,
                  const std::vector<int64_t>& buckets, bool exactly, int64_t most) {
  for (int64_t size : asked) {
    if (exactly && std::find(buckets.begin(), buckets.end(), size) == buckets.end()) {
      return Status(StatusCode::kInvalidArgument,
                    "service '" + service + "': " + std::string(what) + " " + std::to_string(size) +
                        " is no bucket, and the model takes only those: padding changes its outputs");
    }
    if (size >= 1 && size <= most) continue;
    return Status(StatusCode::kInvalidArgument,
                  "service '" + service + "': " + std::string(what) + " " + std::to_string(size) +
                      (buckets.empty() ? ": the model has no sequence dimension"
                                       : " is not between 1 and " + std::to_string(most)));
  }
  return Status::Ok();
}

int64_t LargestOf(const std::vector<int64_t>& buckets) {
  return buckets.empty() ? 0 : *std::max_element(buckets.begin(), buckets.end());
}

// Appends queries of this size to what the plan can send, as those of its last service.
Status AddChoice(const protocol::ModelDescription& model, int64_t batch, int64_t sequence, Random& random,
                 LoadPlan* plan) {
  LoadChoice choice{static_cast<uint32_t>(plan->services.size() - 1), batch, sequence, {}};
  choice.request.model = model.name;
  choice.request.qos_us = plan->options.qos_us;
  if (!plan->options.payload) {
    choice.request.synthetic = {static_cast<uint32_t>(batch), static_cast<uint32_t>(sequence)};
  } else {
    for (const auto& input : model.inputs) {
      auto tensor = RandomTensor(input, batch, sequence, random);
      if (!tensor) return tensor.error().WithContext("service '" + model.name + "'");
      choice.request.inputs.push_back(std::move(*tensor));
    }
  }
  plan->choices.push_back(std::move(choice));
  return Status::Ok();
}

void AddService(const protocol::ModelDescription& model, LoadPlan* plan) {
  plan->services.push_back({model.name, plan->options.qos_us != 0 ? plan->options.qos_us : model.qos_us});
}

// Appends one service and its choices to the plan.
Status AddService(const protocol::ModelDescription& model, const LoadService& service, Random& random, LoadPlan* plan) {
  ABACUS_RETURN_IF_ERROR(CheckSizes(service.name, "batch", service.batches, model.batch_sizes, !model.batchable,
                                    LargestOf(model.batch_sizes)));
  ABACUS_RETURN_IF_ERROR(CheckSizes(service.name, "seq", service.sequences, model.sequence_lengths,
                                    model.sequence_padding == "exact", LargestOf(model.sequence_lengths)));
  const auto& batches = service.batches.empty() ? model.batch_sizes : service.batches;
  auto sequences = service.sequences.empty() ? model.sequence_lengths : service.sequences;
  if (sequences.empty()) sequences = {0};
  AddService(model, plan);
  for (int64_t batch : batches) {
    for (int64_t sequence : sequences) ABACUS_RETURN_IF_ERROR(AddChoice(model, batch, sequence, random, plan));
  }
  return Status::Ok();
}

// Poisson arrivals: every arrival picks a service by weight, and one of its choices with equal chances.
void DrawArrivals(const std::vector<double>& weights, LoadPlan* plan) {
  struct Span {
    uint32_t first = 0, count = 0;
  };
  std::vector<Span> choices_of(weights.size());
  for (uint32_t i = 0; i < plan->choices.size(); ++i) {
    Span& span = choices_of[plan->choices[i].service];
    if (span.count++ == 0) span.first = i;
  }
  const double total_weight = std::accumulate(weights.begin(), weights.end(), 0.0);
  Random random(plan->options.seed);
  double at_s = 0;
  while (true) {
    at_s += -std::log1p(-random.Unit()) / plan->options.rate_per_s;
    if (at_s >= plan->options.seconds) return;
    double left = random.Unit() * total_weight;
    size_t service = 0;
    while (service + 1 < weights.size() && left >= weights[service]) left -= weights[service++];
    const Span span = choices_of[service];
    const auto choice = static_cast<uint32_t>(random.Between(span.first, span.first + span.count - 1));
    plan->arrivals.push_back({static_cast<uint64_t>(at_s * 1e9), choice});
  }
}

bool ParseSizes(std::string_view text, std::vector<int64_t>* sizes) {
  while (!text.empty()) {
    int64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || size < 1) return false;
    sizes->push_back(size);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (text.empty()) return true;
    if (text[0] != ',') return false;
    text.remove_prefix(1);
  }
  return false;
}

}  // namespace

Result<LoadService> ParseLoadService(std::string_view text) {
  const auto fail = [&](std::string_view what) {
    return Error(StatusCode::kInvalidArgument, "'" + std::string(text) + "': " + std::string(what) +
                                                   "; a service is NAME[:weight=W][:batch=1,2,4][:seq=8,16]");
  };
  LoadService service;
  std::string_view rest = text;
  service.name = TakePart(&rest, ':');
  if (service.name.empty()) return fail("the name is missing");
  while (!rest.empty()) {
    const std::string_view part = TakePart(&rest, ':');
    const std::string_view value = part.substr(std::min(part.find('=') + 1, part.size()));
    if (part.starts_with("weight=")) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), service.weight);
      const bool valid = error == std::errc() && end == value.data() + value.size() && std::isfinite(service.weight);
      if (!valid || service.weight <= 0) return fail("weight is a positive number");
    } else if (part.starts_with("batch=")) {
      if (!ParseSizes(value, &service.batches)) return fail("batch is a list of positive numbers");
    } else if (part.starts_with("seq=")) {
      if (!ParseSizes(value, &service.sequences)) return fail("seq is a list of positive numbers");
    } else {
      return fail("unknown part '" + std::string(part) + "'");
    }
  }
  return service;
}

Result<LoadPlan> PlanLoad(const std::vector<protocol::ModelDescription>& models, std::vector<LoadService> services,
                          const LoadOptions& options) {
  if (!(options.rate_per_s > 0) || !(options.seconds > 0) || options.rate_per_s * options.seconds > kMaxArrivals) {
    return Error(StatusCode::kInvalidArgument,
                 "rate and seconds must be positive, and their product at most 50 million");
  }
  if (services.empty()) {
    for (const auto& model : models) services.push_back({model.name, 1, {}, {}});
  }
  if (services.empty()) return Error(StatusCode::kUnknownModel, "the server has no models");
  LoadPlan plan;
  plan.options = options;
  Random payload_random(options.seed ^ kPayloadStream);
  std::vector<double> weights;
  for (const LoadService& service : services) {
    const auto model = FindModel(models, service.name);
    if (!model) return Error(model.error());
    ABACUS_RETURN_IF_ERROR(AddService(**model, service, payload_random, &plan));
    weights.push_back(service.weight);
  }
  DrawArrivals(weights, &plan);
  return plan;
}

Result<LoadPlan> PlanTrace(const std::vector<protocol::ModelDescription>& models, const ArrivalTrace& trace,
                           const LoadOptions& options) {
  LoadPlan plan;
  plan.options = options;
  plan.options.seconds = trace.seconds();
  plan.options.rate_per_s =
      static_cast<double>(trace.arrivals.size()) / std::max(plan.options.seconds, 1e-9);  // for the report
  // Queries of one size share their payload.
  using Size = std::pair<int64_t, int64_t>;
  std::vector<std::map<Size, uint32_t>> choice_of(trace.services.size());
  const auto size_of = [](const TraceArrival& arrival, const protocol::ModelDescription& model) {
    const bool longest = arrival.sequence == 0;
    return Size(arrival.rows, longest ? LargestOf(model.sequence_lengths) : int64_t{arrival.sequence});
  };
  std::vector<const protocol::ModelDescription*> model_of;
  for (const std::string& name : trace.services) {
    const auto model = FindModel(models, name);
    if (!model) return Error(model.error().WithContext("the trace"));
    model_of.push_back(*model);
  }
  for (const TraceArrival& arrival : trace.arrivals) {
    choice_of[arrival.service].try_emplace(size_of(arrival, *model_of[arrival.service]), 0);
  }
  Random random(options.seed ^ kPayloadStream);
  for (size_t s = 0; s < model_of.size(); ++s) {
    const protocol::ModelDescription& model = *model_of[s];
    AddService(model, &plan);
    const int64_t most_rows = LargestOf(model.batch_sizes) * (model.batchable ? protocol::kMaxQueryParts : 1);
    for (auto& [size, index] : choice_of[s]) {
      const auto [rows, sequence] = size;
      ABACUS_RETURN_IF_ERROR(CheckSizes(model.name, "rows", {&rows, 1}, model.batch_sizes, !model.batchable, most_rows)
                                 .WithContext("the trace"));
      if (sequence != 0) {
        ABACUS_RETURN_IF_ERROR(CheckSizes(model.name, "sequence", {&sequence, 1}, model.sequence_lengths,
                                          model.sequence_padding == "exact", LargestOf(model.sequence_lengths))
                                   .WithContext("the trace"));
      }
      index = static_cast<uint32_t>(plan.choices.size());
      ABACUS_RETURN_IF_ERROR(AddChoice(model, rows, sequence, random, &plan));
    }
  }
  for (const TraceArrival& arrival : trace.arrivals) {
    const Size size = size_of(arrival, *model_of[arrival.service]);
    plan.arrivals.push_back({arrival.at_ns, choice_of[arrival.service].at(size)});
  }
  return plan;
}

}  // namespace abacus
