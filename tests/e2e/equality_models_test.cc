// 16 services under 8 clients answer as each does alone, with real models in real workers on the CPU: bit for bit where
// a job is one query, else up to the models' tolerance. companions_test.cc looks at single rows.
#include "base/file.h"
#include "tests/e2e/equality.h"
#include "tests/worker/torch/test_models.h"

namespace abacus::test {
namespace {

constexpr size_t kServices = 16;

TEST(EqualityOfModels, SixteenServicesUnderEightClientsAnswerAsEachDoesAlone) {
  const TempDir dir;
  std::vector<ModelSpec> models = {MakeRowwise(dir)};
  for (const TestModel& model : AllModels()) models.push_back(model.make(dir));
  std::vector<EqualityService> services;
  for (size_t i = 0; i < kServices; ++i) {
    EqualityService service{models[i % models.size()], ""};
    service.spec.name = "s" + std::to_string(i) + "-" + service.spec.name;
    service.model_file = ReadWholeFile(service.spec.file).value();
    services.push_back(std::move(service));
  }
  const Answers alone = AnswersAlone(services, {.device = "cpu"});
  for (const bool batching : {false, true}) {
    SCOPED_TRACE(batching ? "jobs of several queries" : "jobs of one query");
    ExpectAnswersAs(alone, services, {.device = "cpu", .policy = "free", .batching = batching});
  }
}

}  // namespace
}  // namespace abacus::test
