#include "worker/cuts/topological_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace abacus {
namespace {

using ::testing::ElementsAre;

TEST(TopologicalOrderTest, FollowsEdgesAgainstTheNumbering) {
  EXPECT_THAT(TopologicalOrder(4, {{3, 2}, {2, 1}, {1, 0}}).value(), ElementsAre(3, 2, 1, 0));
}

TEST(TopologicalOrderTest, BreaksTiesByNumber) {
  // A fork and a join, and a node on its own.
  EXPECT_THAT(TopologicalOrder(5, {{4, 1}, {4, 3}, {1, 2}, {3, 2}}).value(), ElementsAre(0, 4, 1, 3, 2));
}

TEST(TopologicalOrderTest, RepeatedEdgesCountOnce) {
  EXPECT_THAT(TopologicalOrder(2, {{1, 0}, {1, 0}}).value(), ElementsAre(1, 0));
}

TEST(TopologicalOrderTest, RefusesCyclesAndUnknownNodes) {
  EXPECT_EQ(TopologicalOrder(3, {{0, 1}, {1, 2}, {2, 1}}).error().code(), StatusCode::kInternal);
  EXPECT_EQ(TopologicalOrder(2, {{0, 2}}).error().code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace abacus
