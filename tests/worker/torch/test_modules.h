// The modules behind test_models.h, for tests that change them before they are saved.
#ifndef ABACUS_TESTS_WORKER_TORCH_TEST_MODULES_H_
#define ABACUS_TESTS_WORKER_TORCH_TEST_MODULES_H_

#include <torch/csrc/jit/api/module.h>

#include <string>

#include "tests/worker/torch/test_models.h"

namespace abacus::test {

torch::jit::Module MakeModule(const std::string& forward, const Weights& weights = {});
ModelSpec SaveModule(const TempDir& dir, const std::string& name, const torch::jit::Module& module);

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_TORCH_TEST_MODULES_H_
