// ServiceSet: what this controller serves, as every thread sees it.
//
// Immutable. Main makes one, publishes it, and replaces it as a whole; intake, schedule and workers take the newest
// over through their mailboxes and keep no reference into anything that changes. A query holds on to the Service that
// admitted it, so a set may be replaced while its queries run.
//
// A service, its worker slot and its lane are three different numbers (base/ids.h). Ids are below kMaxServices and are
// not reused. A later set has all services of the earlier one, with the same id, slot, lane and model; targets and
// limits may be others, and new services may follow. Main publishes to the scheduler first, then to the supervisor,
// then to the front end. So far main publishes at the start only. Thread rule: immutable values, shared by pointer.
#ifndef ABACUS_CONTROLLER_CONFIG_SERVICE_SET_H_
#define ABACUS_CONTROLLER_CONFIG_SERVICE_SET_H_

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "controller/config/config.h"
#include "models/held_model.h"

namespace abacus {

struct Service {
  ServiceId id;
  WorkerId worker;  // the slot of the process that runs it
  LaneId lane;
  ServiceConfig config;
  // What its workers run; null: their program opens the files of `config.spec` itself, or `refusal` says why it has
  // none.
  HeldModelPtr held = nullptr;
  // An error: its model cannot be served, so no worker is started and the service is down.
  Status refusal = {};
};
using ServicePtr = std::shared_ptr<const Service>;

class ServiceSet {
 public:
  // Ascending by id.
  explicit ServiceSet(std::vector<ServicePtr> services) : services_(std::move(services)) {
    for (const ServicePtr& service : services_) by_name_[service->config.name] = service;
  }

  const std::vector<ServicePtr>& services() const { return services_; }
  // Null: there is none of that name.
  ServicePtr Find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

 private:
  std::vector<ServicePtr> services_;
  std::unordered_map<std::string, ServicePtr> by_name_;
};
using ServiceSetPtr = std::shared_ptr<const ServiceSet>;

// The models of a configuration, in its order. Takes as long as reading the largest does. `need_files`: whether workers
// run models (HeldModel::Open).
std::vector<Result<HeldModelPtr>> HoldModels(const Config& config, bool need_files);

// The services of a configuration, in its order: each with the worker slot of the same number, in the lane of its GPU.
// `models`: by service; empty: none is held.
ServiceSetPtr MakeServiceSet(const Config& config, const std::vector<Result<HeldModelPtr>>& models = {});

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_CONFIG_SERVICE_SET_H_
