#include "controller/config/service_set.h"

#include <algorithm>
#include <future>

namespace abacus {

std::vector<Result<HeldModelPtr>> HoldModels(const Config& config, bool need_files) {
  std::vector<std::future<Result<HeldModelPtr>>> opening;
  for (const ServiceConfig& service : config.services) {
    opening.push_back(
        std::async(std::launch::async, [&service, need_files] { return HeldModel::Open(service.spec, need_files); }));
  }
  std::vector<Result<HeldModelPtr>> models;
  for (auto& model : opening) models.push_back(model.get());
  return models;
}

ServiceSetPtr MakeServiceSet(const Config& config, const std::vector<Result<HeldModelPtr>>& models) {
  std::vector<ServicePtr> services;
  for (size_t i = 0; i < config.services.size(); ++i) {
    const std::vector<std::string>& gpus = config.worker.gpus;
    const auto lane = std::find(gpus.begin(), gpus.end(), config.services[i].gpu) - gpus.begin();
    Service service{ServiceId(i), WorkerId(i), LaneId(static_cast<size_t>(lane)), config.services[i]};
    if (i < models.size()) {
      if (models[i]) {
        service.held = *models[i];
      } else {
        service.refusal = models[i].error();
      }
    }
    services.push_back(std::make_shared<const Service>(std::move(service)));
  }
  return std::make_shared<const ServiceSet>(std::move(services));
}

}  // namespace abacus
