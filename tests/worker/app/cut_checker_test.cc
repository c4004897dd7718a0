#include "worker/app/cut_checker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/app/command_test.h"
#include "worker/app/model_bench.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A query of one float input and output, and the boundaries of the ranges that it ran in; none: uncut.
struct Served {
  std::vector<uint32_t> chain;
  uint32_t rows = 0;
  const float* x = nullptr;
  float* y = nullptr;
  size_t elements = 0;

  float largest() const {
    float largest = 0;
    for (size_t i = 0; i < elements; ++i) largest = std::max(largest, std::abs(x[i]));
    return largest;
  }
};
using Fault = std::function<void(const Served&)>;

constexpr size_t kColumns = 6;

// A runtime that changes answers.
class FaultyRuntime : public TorchRuntime {
 public:
  FaultyRuntime(std::unique_ptr<TorchRuntime> inner, Fault fault)
      : inner_(std::move(inner)), fault_(std::move(fault)) {}

  const BucketRanges& ranges(uint32_t bucket) const override { return inner_->ranges(bucket); }
  std::string device_name() const override { return inner_->device_name(); }
  std::string libraries() const override { return inner_->libraries(); }
  ModelProgram& program() override { return inner_->program(); }
  Status Start(const RangeRequest& range) override {
    if (range.first == 0) chain_ = {0};
    chain_.push_back(range.last);
    ABACUS_RETURN_IF_ERROR(inner_->Start(range));
    if (range.last == ranges(range.bucket).operators) Change(chain_, range.tensors);
    return Status::Ok();
  }
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override {
    ABACUS_RETURN_IF_ERROR(inner_->RunUncut(bucket, tensors));
    Change({}, tensors);
    return Status::Ok();
  }

 private:
  void Change(const std::vector<uint32_t>& chain, const JobTensors& tensors) const {
    if (tensors.empty()) return;
    const QueryTensors& query = tensors[0];
    fault_({chain, query.rows, reinterpret_cast<const float*>(query.inputs[0]),
            reinterpret_cast<float*>(query.outputs[0]), query.rows * kColumns});
  }

  const std::unique_ptr<TorchRuntime> inner_;
  const Fault fault_;
  std::vector<uint32_t> chain_;
};

class CutCheckerTest : public test::CommandTest {
 protected:
  // Of the bucket of batch 4.
  BucketReport Check(const Fault& fault) {
    const Result<ModelSpec> spec = LoadModelSpec(Save(test::kSound));
    EXPECT_TRUE(spec);
    Result<std::unique_ptr<TorchRuntime>> runtime = LoadTorchRuntime(*spec, {});
    EXPECT_TRUE(runtime) << runtime.error().ToString();
    auto bench = ModelBench::Adopt(*spec, std::make_unique<FaultyRuntime>(std::move(*runtime), fault), "");
    EXPECT_TRUE(bench);
    CutCheckerOptions options;
    options.repetitions = 1;
    CutChecker checker(options, std::move(*bench));
    const Result<BucketReport> report = checker.Check(spec->FindBucket(4, 0).value());
    EXPECT_TRUE(report) << report.error().ToString();
    return *report;
  }
};

TEST_F(CutCheckerTest, FindsNothingInASoundModel) {
  const BucketReport report = Check([](const Served&) {});
  EXPECT_TRUE(report.ok()) << report.error;
  EXPECT_EQ(report.scales.size(), 6u);
  EXPECT_THAT(report.notes, IsEmpty());
  ASSERT_TRUE(report.padded_difference);
  EXPECT_LT(*report.padded_difference, 1e-6);
}

TEST_F(CutCheckerTest, FindsOneCutThatDiffers) {
  const BucketReport report = Check([](const Served& served) {
    if (served.chain.size() == 3 && served.chain[1] == 2) served.y[3] += 1e-6f;
  });
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(report.different, 1u);
  EXPECT_GT(report.max_difference, 0);
  EXPECT_EQ(report.worst_scale, "N(0, 1)");
}

TEST_F(CutCheckerTest, FindsWhatOnlyLargeInputsShow) {
  const BucketReport report = Check([](const Served& served) {
    if (served.largest() > 100 && std::isfinite(served.largest())) std::fill_n(served.y, served.elements, 20.0f);
  });
  EXPECT_EQ(report.different, 0u);
  EXPECT_EQ(report.worst_scale, "pixels 0..255");
  EXPECT_THAT(report.error, HasSubstr("pixels 0..255: output \"y\""));
}

TEST_F(CutCheckerTest, FindsACutThatDiffersOnLargeInputsAlone) {
  const BucketReport report = Check([](const Served& served) {
    if (served.largest() > 100 && served.chain.size() > 3) served.y[0] += 1;
  });
  EXPECT_GT(report.different, 0u);
  EXPECT_THAT(report.error, IsEmpty());
  EXPECT_EQ(report.worst_scale, "pixels 0..255");
}

TEST_F(CutCheckerTest, FindsNanThatDisappears) {
  const BucketReport report = Check([](const Served& served) {
    for (size_t i = 0; i < served.elements; ++i) served.y[i] = std::isnan(served.y[i]) ? 0 : served.y[i];
  });
  EXPECT_FALSE(report.ok());
  EXPECT_THAT(report.error, HasSubstr("with a NaN: output \"y\""));
}

TEST_F(CutCheckerTest, FindsWrongAnswersToPaddedQueries) {
  const BucketReport report = Check([](const Served& served) {
    if (served.rows == 3) std::swap_ranges(served.y, served.y + kColumns, served.y + kColumns);
  });
  EXPECT_EQ(report.different, 0u);
  EXPECT_THAT(report.error, HasSubstr("a padded query: output \"y\""));
  EXPECT_EQ(report.worst_scale, "a padded query");
}

}  // namespace
}  // namespace abacus
