#include "predictor/mlp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "tests/predictor/small_predictor.h"

namespace abacus {
namespace {

using testing::HasSubstr;

std::vector<float> RandomRow(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value;
  std::vector<float> row(size);
  for (float& x : row) x = value(random);
  return row;
}

double Reference(const std::vector<MlpLayer>& layers, const std::vector<float>& row) {
  std::vector<double> in(row.begin(), row.end());
  for (size_t n = 0; n < layers.size(); ++n) {
    const MlpLayer& layer = layers[n];
    std::vector<double> out(layer.bias.begin(), layer.bias.end());
    for (size_t i = 0; i < layer.inputs; ++i) {
      for (size_t j = 0; j < layer.outputs; ++j) {
        out[j] += static_cast<double>(layer.weights[i * layer.outputs + j]) * in[i];
      }
    }
    if (n + 1 < layers.size()) {
      for (double& x : out) x = std::max(x, 0.0);
    }
    in = std::move(out);
  }
  return in[0];
}

// That this machine has.
std::vector<Mlp::Instructions> AllInstructions() {
  std::vector<Mlp::Instructions> all;
  for (const auto each : {Mlp::Instructions::kPlain, Mlp::Instructions::kAvx2, Mlp::Instructions::kAvx512}) {
    if (each <= Mlp::Widest()) all.push_back(each);
  }
  return all;
}

using MlpWith = testing::TestWithParam<Mlp::Instructions>;
INSTANTIATE_TEST_SUITE_P(Instructions, MlpWith, testing::ValuesIn(AllInstructions()));

TEST_P(MlpWith, AgreesWithANaiveReference) {
  for (const size_t inputs : {1, 3, 19, 103, 229}) {
    for (const size_t hidden : {1, 2, 3, 7}) {
      const std::vector<MlpLayer> layers = test::RandomLayers(inputs, hidden, static_cast<uint32_t>(inputs + hidden));
      const auto mlp = Mlp::Create(layers, GetParam());
      ASSERT_TRUE(mlp) << mlp.error().message();
      EXPECT_EQ(mlp->inputs(), inputs);
      for (uint32_t seed = 0; seed < 20; ++seed) {
        const std::vector<float> row = RandomRow(inputs, seed);
        const double expected = Reference(layers, row);
        EXPECT_NEAR(static_cast<double>(mlp->Evaluate(row)), expected, 1e-5 * std::max(1.0, std::abs(expected)));
      }
    }
  }
}

TEST(Mlp, PiecesAddUpToTheWholeRow) {
  constexpr size_t kInputs = 47;
  const auto mlp = Mlp::Create(test::RandomLayers(kInputs, 2, 5));
  ASSERT_TRUE(mlp);
  const std::vector<float> row = RandomRow(kInputs, 6);
  const std::span<const float> all = row;
  const float whole = mlp->Evaluate(row);
  HiddenSums sums;
  mlp->Start(&sums);
  for (const auto& [first, count] : std::vector<std::pair<size_t, size_t>>{{42, 5}, {14, 14}, {0, 14}, {28, 14}}) {
    mlp->Accumulate(first, all.subspan(first, count), &sums);
  }
  EXPECT_NEAR(mlp->Finish(sums), whole, 1e-5f * std::max(1.0f, std::abs(whole)));
  // In the same order it is the same arithmetic, so equal to the last bit; Finish leaves the sums as they are.
  mlp->Start(&sums);
  mlp->Accumulate(0, all.first(14), &sums);
  mlp->Accumulate(14, all.subspan(14), &sums);
  EXPECT_EQ(mlp->Finish(sums), whole);
  EXPECT_EQ(mlp->Finish(sums), whole);
}

TEST_P(MlpWith, ManyAtOnceAreTheSameToTheLastBit) {
  constexpr size_t kInputs = 19, kSamples = 23;
  const auto mlp = Mlp::Create(test::RandomLayers(kInputs, 3, 5), GetParam());
  ASSERT_TRUE(mlp);
  std::vector<HiddenSums> samples(kSamples);
  std::vector<float> each;
  for (uint32_t i = 0; i < kSamples; ++i) {
    const std::vector<float> row = RandomRow(kInputs, i);
    mlp->Start(&samples[i]);
    mlp->Accumulate(0, row, &samples[i]);
    each.push_back(mlp->Finish(samples[i]));
    EXPECT_EQ(each.back(), mlp->Evaluate(row));
  }
  for (size_t count = 0; count <= kSamples; ++count) {
    std::vector<HiddenSums> some(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(count));
    std::vector<float> out(count);
    mlp->Finish(some, out);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], each[i]) << i << " of " << count;
  }
}

TEST(Mlp, ZeroColumnsAddNothing) {
  const auto mlp = Mlp::Create(test::RandomLayers(30, 2, 5));
  ASSERT_TRUE(mlp);
  std::vector<float> row = RandomRow(30, 6);
  std::fill(row.begin() + 10, row.end(), 0.0f);
  HiddenSums sums;
  mlp->Start(&sums);
  mlp->Accumulate(0, std::span(row).first(10), &sums);
  EXPECT_EQ(mlp->Finish(sums), mlp->Evaluate(row));
}

TEST(Mlp, RefusesWhatDoesNotFitAndNamesTheLayer) {
  const auto message = [](const std::function<void(std::vector<MlpLayer>*)>& change) {
    std::vector<MlpLayer> layers = test::RandomLayers(5, 2, 1);
    change(&layers);
    const auto mlp = Mlp::Create(std::move(layers));
    if (mlp) return std::string("created");
    EXPECT_EQ(mlp.error().code(), StatusCode::kInvalidArgument);
    return mlp.error().message();
  };
  const auto resize = [](MlpLayer* layer, size_t inputs, size_t outputs) {
    *layer = {inputs, outputs, std::vector<float>(inputs * outputs), std::vector<float>(outputs)};
  };
  EXPECT_EQ(message([](auto*) {}), "created");
  EXPECT_THAT(message([](auto* l) { l->clear(); }), HasSubstr("2 to 8 layers"));
  EXPECT_THAT(message([](auto* l) { l->erase(l->begin(), l->end() - 1); }), HasSubstr("2 to 8 layers"));
  EXPECT_THAT(message([](auto* l) { l->insert(l->begin() + 1, 6, (*l)[1]); }), HasSubstr("2 to 8 layers"));
  EXPECT_THAT(message([&](auto* l) { resize(&(*l)[0], 0, 64); }), HasSubstr("layer 0 of the network has 0 inputs"));
  EXPECT_THAT(message([&](auto* l) { resize(&(*l)[0], 4097, 64); }), HasSubstr("layer 0 of the network has 4097"));
  EXPECT_THAT(message([&](auto* l) { resize(&(*l)[0], 5, 32); }), HasSubstr("layer 0 of the network has 32 outputs"));
  EXPECT_THAT(message([&](auto* l) { resize(&(*l)[1], 63, 64); }), HasSubstr("layer 1 of the network has 63 inputs"));
  EXPECT_THAT(message([&](auto* l) { resize(&(*l)[2], 64, 2); }), HasSubstr("layer 2 of the network has 2 outputs"));
  EXPECT_THAT(message([](auto* l) { (*l)[0].weights.pop_back(); }), HasSubstr("layer 0 of the network has the wrong"));
  EXPECT_THAT(message([](auto* l) { (*l)[1].weights.push_back(0); }),
              HasSubstr("layer 1 of the network has the wrong"));
  EXPECT_THAT(message([](auto* l) { (*l)[2].bias.push_back(0); }), HasSubstr("layer 2 of the network has the wrong"));
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT(message([&](auto* l) { (*l)[1].weights[77] = bad; }),
                HasSubstr("layer 1 of the network has weights th"));
    EXPECT_THAT(message([&](auto* l) { (*l)[2].bias[0] = -bad; }), HasSubstr("layer 2 of the network has weights th"));
  }
}

}  // namespace
}  // namespace abacus
