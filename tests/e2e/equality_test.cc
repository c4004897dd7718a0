// 16 services under 8 clients answer as each does alone: with fake workers, which give back what they get, and so show
// where rows, tensors and replies went. equality_models_test.cc has real models.
#include "tests/e2e/equality.h"

namespace abacus::test {
namespace {

constexpr size_t kServices = 16;

TensorSpec Floats(const std::string& name, int64_t width) {
  return {name, DType::kFloat32, Shape{kBatchDim, width}, {}, 0};
}
TensorSpec Integers(const std::string& name) {
  return {name, DType::kInt64, Shape{kBatchDim, kSequenceDim}, IntRange{0, 999'999}, 0};
}

// Of four kinds, each service with a width of its own.
std::vector<EqualityService> FakeModels() {
  std::vector<EqualityService> services;
  for (size_t i = 0; i < kServices; ++i) {
    ModelSpec spec;
    spec.name = "s" + std::to_string(i);
    spec.batch_sizes = {1, 2, 4};
    const auto width = static_cast<int64_t>(20 + i);
    switch (i % 4) {
      case 0:
        spec.inputs = {Floats("x", width)};
        spec.outputs = {Floats("y", width)};
        break;
      case 1:
        spec.sequence_lengths = {8, 16};
        spec.inputs = {Integers("ids")};
        spec.outputs = {Integers("out")};
        break;
      case 2:
        spec.sequence_lengths = {4, 12};
        spec.inputs = {Floats("x", width), Integers("ids")};
        spec.outputs = {Floats("y", width), Integers("out")};
        break;
      default:  // each query has a batch of its own
        spec.batchable = false;
        spec.inputs = {Floats("a", 1000 + width), Floats("b", 3)};
        spec.outputs = {Floats("y", 1000 + width), Floats("z", 3)};
    }
    services.push_back({std::move(spec), ""});
  }
  return services;
}

class Equality : public testing::TestWithParam<const char*> {};

TEST_P(Equality, SixteenServicesUnderEightClientsAnswerAsEachDoesAlone) {
  ExpectAnswersAsAlone(FakeModels(), {.device = "fake", .policy = GetParam(), .turns = kSanitized ? 1 : 4});
}

INSTANTIATE_TEST_SUITE_P(Policies, Equality, testing::Values("free", "edf"));

}  // namespace
}  // namespace abacus::test
