#include "controller/config/service_set.h"

#include <algorithm>

namespace abacus {

ServiceSetPtr MakeServiceSet(const Config& config) {
  std::vector<ServicePtr> services;
  for (size_t i = 0; i < config.services.size(); ++i) {
    const std::vector<std::string>& gpus = config.worker.gpus;
    const auto lane = std::find(gpus.begin(), gpus.end(), config.services[i].gpu) - gpus.begin();
    services.push_back(std::make_shared<const Service>(
        Service{ServiceId(i), WorkerId(i), LaneId(static_cast<size_t>(lane)), config.services[i]}));
  }
  return std::make_shared<const ServiceSet>(std::move(services));
}

}  // namespace abacus
