// Each test runs in a process of its own, as libraries stay open.
#include "worker/torch/operator_libraries.h"

#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>

#include <fstream>
#include <memory>
#include <string>

#include "base/digest.h"
#include "base/file.h"
#include "tests/worker/torch/test_models.h"
#include "tests/worker/torch/test_modules.h"
#include "worker/torch/torch_script_program.h"

namespace abacus {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

OperatorLibrary TestLibrary() {
  const std::filesystem::path file = ABACUS_TEST_OPERATORS;
  return {file, Sha256Hex(ReadWholeFile(file).value()), file};
}

// Lets source text call the operators of the test library as library.NAME.
struct TestOperators : public torch::jit::Resolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(const std::string& name,
                                                         torch::jit::GraphFunction& /*function*/,
                                                         const torch::jit::SourceRange& /*range*/) override {
    if (name == "torch") return std::make_shared<torch::jit::BuiltinModule>("aten");
    return name == "library" ? std::make_shared<torch::jit::BuiltinModule>("abacus_test") : nullptr;
  }
};

ModelSpec SpecWith(OperatorLibrary library) {
  ModelSpec spec;
  spec.name = "twice";
  spec.toml_path = "twice.toml";
  spec.libraries = {std::move(library)};
  return spec;
}

TEST(OperatorLibrariesTest, AModelRunsOperatorsOfALibraryThatItsDescriptionNames) {
  const test::TempDir dir;
  ASSERT_TRUE(OpenOperatorLibraries(SpecWith(TestLibrary())).ok());
  torch::jit::Module module = test::MakeModule("def unused(self, x):\n    return x\n");
  module.define("def forward(self, x):\n    return torch.relu(library.twice(x))\n", std::make_shared<TestOperators>());
  ModelSpec spec = test::SaveModule(dir, "twice", module);
  spec.inputs = spec.outputs = {test::FloatTensor("x", {kBatchDim, 4})};
  spec.libraries = {TestLibrary()};
  const auto program = TorchScriptProgram::Load(spec, at::kCPU, {});
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  EXPECT_EQ((*program)->Forward(0, {at::ones({1, 4})}).value()[0].sum().item<float>(), 8);
}

TEST(OperatorLibrariesTest, RefusesALibraryThatIsNotTheOneExportedWith) {
  OperatorLibrary library = TestLibrary();
  library.sha256 = std::string(64, '0');
  const Status status = OpenOperatorLibraries(SpecWith(library));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("is not the one that the model was exported with"),
                                      HasSubstr("twice.toml"), HasSubstr("--library")));
}

TEST(OperatorLibrariesTest, NamesALibraryThatIsMissingOrDoesNotLoad) {
  const test::TempDir dir;
  OperatorLibrary library = {dir.path() / "ops.so", std::string(64, '0'), {}};
  EXPECT_EQ(OpenOperatorLibraries(SpecWith(library)).code(), StatusCode::kNotFound);
  std::ofstream(library.file) << "This is no library.";
  library.sha256 = Sha256Hex("This is no library.");
  const Status status = OpenOperatorLibraries(SpecWith(library));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("ops.so"), HasSubstr("does not load")));
}

TEST(UnknownOperatorTest, ReadsTheNameFromLibTorchsError) {
  EXPECT_EQ(UnknownOperator("\nUnknown builtin op: torchvision::nms.\nCould not find"), "torchvision::nms");
  EXPECT_EQ(UnknownOperator("Unknown type name '__torch__.torch.classes.my.Stack':"), "my.Stack");
  EXPECT_EQ(UnknownOperator("index out of range"), "");
}

}  // namespace
}  // namespace abacus
