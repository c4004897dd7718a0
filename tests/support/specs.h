// Small model specs and configurations for tests.
#ifndef ABACUS_TESTS_SUPPORT_SPECS_H_
#define ABACUS_TESTS_SUPPORT_SPECS_H_

#include <string>

#include "controller/config/service_set.h"
#include "models/model_spec.h"

namespace abacus::test {

// float32 [batch, 4] -> float32 [batch, 4]; batches 1, 2, 4.
inline ModelSpec ImageSpec(uint32_t operators = 8) {
  ModelSpec spec;
  spec.name = "image";
  spec.batch_sizes = {1, 2, 4};
  spec.inputs.push_back({"x", DType::kFloat32, Shape{kBatchDim, 4}, {}, 0});
  spec.outputs.push_back({"y", DType::kFloat32, Shape{kBatchDim, 4}, {}, 0});
  spec.fake.operators = operators;
  return spec;
}

// int64 ids [batch, sequence] in 0..99, padded with 1 -> int64 [batch, sequence]; batches 1, 2; sequences 4, 8.
inline ModelSpec TextSpec() {
  ModelSpec spec;
  spec.name = "text";
  spec.batch_sizes = {1, 2};
  spec.sequence_lengths = {4, 8};
  spec.inputs.push_back({"ids", DType::kInt64, Shape{kBatchDim, kSequenceDim}, IntRange{0, 99}, 1});
  spec.outputs.push_back({"out", DType::kInt64, Shape{kBatchDim, kSequenceDim}, {}, 0});
  spec.fake.operators = 8;
  return spec;
}

inline Config TwoServices(const std::string& policy) {
  Config config;
  config.server.name = "test";
  config.scheduler.policy = policy;
  config.scheduler.abandon = false;
  for (const ModelSpec& spec : {ImageSpec(), TextSpec()}) {
    ServiceConfig service;
    service.name = spec.name;
    service.spec = spec;
    service.gpu = config.worker.gpus.front();
    config.services.push_back(service);
  }
  return config;
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_SUPPORT_SPECS_H_
