#include "controller/intake/service_report.h"

#include <string>
#include <utility>

#include "base/clock.h"
#include "models/held_model.h"

namespace abacus {
namespace {

protocol::TensorDescription Describe(const TensorSpec& tensor) {
  protocol::TensorDescription out;
  out.name = tensor.name;
  out.dtype = tensor.dtype;
  out.dims = DimNames(tensor);
  out.has_range = tensor.range.has_value();
  if (tensor.range) {
    out.low = tensor.range->low;
    out.high = tensor.range->high;
    out.range_to_sequence = tensor.range->to_sequence;
  }
  out.has_float_range = tensor.float_range.has_value();
  if (tensor.float_range) {
    out.float_low = tensor.float_range->low;
    out.float_high = tensor.float_range->high;
  }
  return out;
}

std::string HealthState(const WorkerSlot& worker) {
  switch (static_cast<WorkerState>(worker.state.load(std::memory_order_acquire))) {
    case WorkerState::kServing:
      return "ready";
    case WorkerState::kFailed:
      return "failed";
    case WorkerState::kExited:
      return "restarting";
    default:
      return worker.generation.load(std::memory_order_relaxed) > 1 ? "restarting" : "starting";
  }
}

}  // namespace

void ReportModels(const ServiceSet& services, protocol::Reply* reply) {
  for (const ServicePtr& service : services.services()) {
    const ModelSpec& spec = service->config.spec;
    protocol::ModelDescription model;
    model.name = service->config.name;
    for (const TensorSpec& input : spec.inputs) model.inputs.push_back(Describe(input));
    for (const TensorSpec& output : spec.outputs) model.outputs.push_back(Describe(output));
    model.batch_sizes = spec.batch_sizes;
    model.sequence_lengths = spec.sequence_lengths;
    model.qos_us = service->config.qos_ns / kNsPerUs;
    model.batchable = spec.batchable;
    if (spec.sequence_padding != SequencePadding::kHarmless) {
      model.sequence_padding = SequencePaddingName(spec.sequence_padding);
    }
    if (service->held != nullptr) model.digest = service->held->digest();
    reply->models.push_back(std::move(model));
  }
}

void ReportHealth(const ServiceSet& services, const Region& region, protocol::Reply* reply) {
  reply->ready = true;
  for (const ServicePtr& service : services.services()) {
    const WorkerSlot& worker = region.worker(service->worker);
    const ServiceStats& stats = region.service(service->id).stats;
    protocol::ServiceHealth health;
    health.name = service->config.name;
    health.state = HealthState(worker);
    health.worker_pid = worker.pid.load(std::memory_order_relaxed);
    health.queued = stats.queued.load(std::memory_order_relaxed);
    health.restarts = stats.restarts.load(std::memory_order_relaxed);
    if (health.state != "ready") health.message = LoadText(worker.error);
    reply->ready &= health.state == "ready";
    reply->services.push_back(std::move(health));
  }
}

}  // namespace abacus
