#include "predictor/additive_model.h"

#include <gtest/gtest.h>

#include <array>

namespace abacus {
namespace {

class AdditiveModelTest : public testing::Test {
 protected:
  AdditiveModelTest() {
    model_.SetBucket(ServiceId(0), 0, cuts_, 1000);
    model_.SetBucket(ServiceId(1), 2, cuts_, 500);
  }
  const std::array<uint32_t, 5> cuts_ = {0, 10, 13, 50, 100};
  AdditiveModel model_;
};

TEST_F(AdditiveModelTest, ARangeCountsByItsCutIntervals) {
  const OperatorRange whole{ServiceId(0), 0, 0, 100}, second{ServiceId(0), 0, 10, 13}, tail{ServiceId(0), 0, 13, 100};
  EXPECT_EQ(model_.PredictNs({&whole, 1}), 1000u);
  EXPECT_EQ(model_.PredictNs({&second, 1}), 250u);
  EXPECT_EQ(model_.PredictNs({&tail, 1}), 500u);
}

TEST_F(AdditiveModelTest, AGroupIsTheSumOfItsParts) {
  const std::array<OperatorRange, 2> group = {{{ServiceId(0), 0, 0, 100}, {ServiceId(1), 2, 0, 100}}};
  EXPECT_EQ(model_.PredictNs(group), 1500u);
}

TEST_F(AdditiveModelTest, SoloTimesAreCorrected) {
  SoloCorrection solo;
  model_.SetCorrection(&solo);
  const std::array<OperatorRange, 2> group = {{{ServiceId(0), 0, 0, 100}, {ServiceId(1), 2, 0, 100}}};
  EXPECT_EQ(model_.PredictNs(group), 1500u);
  solo.Set(ServiceId(0), 0, 0.1);
  EXPECT_EQ(model_.PredictNs(group), 600u);
  EXPECT_EQ(model_.SoloNs(ServiceId(0), 0), 1000u) << "as it was given";
}

TEST_F(AdditiveModelTest, KnowsNothingAboutOthers) {
  for (const OperatorRange range : {OperatorRange{ServiceId(7), 0, 0, 1}, OperatorRange{ServiceId(1), 0, 0, 1},
                                    OperatorRange{ServiceId(1), 9, 0, 1}}) {
    EXPECT_EQ(model_.PredictNs({&range, 1}), 0u);
  }
}

}  // namespace
}  // namespace abacus
