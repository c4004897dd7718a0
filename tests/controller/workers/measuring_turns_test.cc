#include "controller/workers/measuring_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Loading = MeasuringTurns::Loading;

constexpr WorkerRef kA{WorkerId{1}, 1}, kB{WorkerId{2}, 1}, kC{WorkerId{3}, 1};

class MeasuringTurnsTest : public testing::Test {
 protected:
  std::vector<WorkerRef> Begin(const std::vector<Loading>& loading, uint64_t now_ns = 0) {
    return turns_.Begin(loading, now_ns);
  }
  MeasuringTurns turns_;
};

TEST_F(MeasuringTurnsTest, OneAtATimeInTheOrderOfBecomingReady) {
  EXPECT_THAT(Begin({{kA, 0, false}, {kB, 0, false}, {kC, 0, false}}), IsEmpty());
  EXPECT_THAT(Begin({{kA, 0, false}, {kB, 0, false}, {kC, 0, true}}), IsEmpty()) << "two still load";
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 0, true}, {kC, 0, true}}), ElementsAre(kC));
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 0, true}, {kC, 0, false}}), IsEmpty()) << "it measures";
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 0, true}}), ElementsAre(kA)) << "it has loaded";
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 0, true}}), IsEmpty()) << "told once";
  EXPECT_THAT(Begin({{kB, 0, true}}), ElementsAre(kB));
}

TEST_F(MeasuringTurnsTest, ATurnEndsWithItsProcess) {
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 0, true}}), ElementsAre(kA));
  const WorkerRef successor{kA.id, 2};
  EXPECT_THAT(Begin({{successor, 0, false}, {kB, 0, true}}), IsEmpty()) << "the successor loads";
  EXPECT_THAT(Begin({{successor, 0, true}, {kB, 0, true}}), ElementsAre(kB)) << "it was ready before";
  EXPECT_THAT(Begin({{successor, 0, true}}), ElementsAre(successor));
}

TEST_F(MeasuringTurnsTest, EachDeviceHasItsOwn) {
  EXPECT_THAT(Begin({{kA, 0, true}, {kB, 1, true}, {kC, 1, false}}), ElementsAre(kA)) << "C loads beside B";
  EXPECT_THAT(Begin({{kA, 0, false}, {kB, 1, true}, {kC, 1, true}}), ElementsAre(kB));
}

TEST_F(MeasuringTurnsTest, OneThatLoadsForEverIsNotWaitedFor) {
  const std::vector<Loading> loading = {{kA, 0, true}, {kB, 0, false}};
  EXPECT_THAT(Begin(loading, 1000), IsEmpty());
  EXPECT_THAT(Begin(loading, 1000 + MeasuringTurns::kPatienceNs - 1), IsEmpty());
  EXPECT_THAT(Begin(loading, 1000 + MeasuringTurns::kPatienceNs), ElementsAre(kA));
  EXPECT_THAT(Begin({{kA, 0, false}, {kB, 0, true}}, 1000 + MeasuringTurns::kPatienceNs), IsEmpty());
}

TEST_F(MeasuringTurnsTest, NobodyGetsNothing) { EXPECT_THAT(Begin({}), IsEmpty()); }

}  // namespace
}  // namespace abacus
