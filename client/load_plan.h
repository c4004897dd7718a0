// LoadPlan: what a load run sends, and when, all of it fixed before the run.
//
// PlanLoad draws Poisson arrivals, their services and buckets, and payloads from the seed: the same models, services
// and options give the same plan on every machine. PlanTrace takes arrivals from a file.
//
// Thread rule: pure functions and plain values.
#ifndef ABACUS_CLIENT_LOAD_PLAN_H_
#define ABACUS_CLIENT_LOAD_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/arrival_trace.h"
#include "client/client.h"
#include "client/protocol.h"

namespace abacus {

// One service of the mix. Empty lists stand for all buckets of the model.
struct LoadService {
  std::string name;
  double weight = 1;  // share of the queries, relative to the other services
  std::vector<int64_t> batches;
  std::vector<int64_t> sequences;
};

// Reads NAME[:weight=W][:batch=1,2,4][:seq=8,16].
Result<LoadService> ParseLoadService(std::string_view text);

struct LoadOptions {
  double rate_per_s = 10;  // of all services together
  double seconds = 10;     // of sending
  uint64_t seed = 1;
  bool payload = true;  // false: synthetic queries without tensors
  uint64_t qos_us = 0;  // latency target; 0: each service's own
};

// What a query of the plan asks for; the request shares its tensors with all queries of the same choice.
struct LoadChoice {
  uint32_t service = 0;  // index into LoadPlan::services
  int64_t batch = 1;
  int64_t sequence = 0;
  InferRequest request;
};

struct LoadArrival {
  uint64_t at_ns = 0;  // from the start
  uint32_t choice = 0;
  friend bool operator==(const LoadArrival&, const LoadArrival&) = default;
};

struct PlannedService {
  std::string name;
  uint64_t qos_us = 0;  // target that replies are judged by
};

struct LoadPlan {
  LoadOptions options;
  std::vector<PlannedService> services;
  std::vector<LoadChoice> choices;
  std::vector<LoadArrival> arrivals;  // ascending
};

// `services` empty: all of `models`, with equal weights. Errors name the service and what does not fit its model.
Result<LoadPlan> PlanLoad(const std::vector<protocol::ModelDescription>& models, std::vector<LoadService> services,
                          const LoadOptions& options);

// The arrivals of a trace; of the options, seed, payload and target count. A query without a length has the longest of
// its model. Errors name the service and what does not fit its model.
Result<LoadPlan> PlanTrace(const std::vector<protocol::ModelDescription>& models, const ArrivalTrace& trace,
                           const LoadOptions& options);

}  // namespace abacus

#endif  // ABACUS_CLIENT_LOAD_PLAN_H_
