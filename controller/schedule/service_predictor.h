// ServicePredictor: the latency model that the scheduler uses, and what people are told about it.
//
// With a predictor file that loads, services are connected to its models as their workers come up; what does not fit is
// predicted by the additive model. Without one, everything is. Status and log say which, and why, and which buckets
// were not profiled. Solo times of either are multiplied by what rounds have taught of them
// (predictor/solo_correction.h). Thread rule: one thread (the scheduler's), after Load.
#ifndef ABACUS_CONTROLLER_SCHEDULE_SERVICE_PREDICTOR_H_
#define ABACUS_CONTROLLER_SCHEDULE_SERVICE_PREDICTOR_H_

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controller/workers/worker_ranges.h"
#include "models/model_spec.h"
#include "predictor/overlap_model.h"
#include "predictor/solo_correction.h"
#include "shm/layout.h"

namespace abacus {

class ServicePredictor {
 public:
  // The additive model alone.
  ServicePredictor() : ServicePredictor(nullptr, "additive: no predictor file is configured") {}
  // An empty path: additive. A file that cannot be used: additive, too, and `description` says why.
  static ServicePredictor Load(const std::filesystem::path& path);
  // A predictor that is loaded already; `name` is what status calls it. Falls back like Load.
  static ServicePredictor Use(PredictorFile file, const std::string& name = "given");

  // What a worker says about itself when it comes up.
  struct WorkerFacts {
    std::string device;
    std::string libraries;
    std::string structure;  // of its model; empty: unknown
    std::vector<WorkerRanges> ranges;
  };
  void WorkerUp(ServiceId service, const std::string& name, const ModelSpec& spec, const WorkerFacts& facts);

  const LatencyModel& model() const;
  // Where rounds write what they teach about solo times; model() uses it.
  SoloCorrection* solo() const { return solo_.get(); }
  bool trained() const { return overlap_ != nullptr; }
  // The margin to start with: the error that 99 % of the held-out groups stayed below.
  double StartMargin() const;
  // Writes what status shows.
  void Describe(PredictorStats* stats) const;

 private:
  static ServicePredictor FallBack(const std::string& why);
  ServicePredictor(std::unique_ptr<OverlapModel> overlap, std::string description);

  std::unique_ptr<SoloCorrection> solo_;  // at one address, however often this moves
  std::unique_ptr<OverlapModel> overlap_;
  AdditiveModel additive_;  // without overlap_, which has one of its own
  std::string description_;
  std::vector<std::string> unconnected_;    // names of services
  std::map<ServiceId, std::string> notes_;  // of connected services with buckets that were not profiled
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_SERVICE_PREDICTOR_H_
