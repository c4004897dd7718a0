#include "controller/trace/trace_recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TraceEvent Event(uint64_t id) {
  TraceEvent event;
  event.id = id;
  event.begin_ns = id * 3;
  return event;
}
std::vector<uint64_t> Ids(const TraceRecorder& recorder) {
  std::vector<uint64_t> ids;
  for (const TraceEvent& event : recorder.Copy()) ids.push_back(event.id);
  return ids;
}

TEST(TraceRecorder, KeepsTheLastOldestFirst) {
  TraceRecorder recorder(4);
  EXPECT_THAT(Ids(recorder), IsEmpty());
  for (uint64_t id = 1; id <= 3; ++id) recorder.Add(Event(id));
  EXPECT_THAT(Ids(recorder), ElementsAre(1, 2, 3));
  recorder.Add(Event(4));
  EXPECT_THAT(Ids(recorder), ElementsAre(1, 2, 3, 4));
  recorder.Add(Event(5));
  EXPECT_THAT(Ids(recorder), ElementsAre(2, 3, 4, 5));
  for (uint64_t id = 6; id <= 11; ++id) recorder.Add(Event(id));
  EXPECT_THAT(Ids(recorder), ElementsAre(8, 9, 10, 11));
}

TEST(TraceRecorder, RecordsNothingWithoutCapacity) {
  TraceRecorder recorder(0);
  recorder.Add(Event(1));
  EXPECT_THAT(recorder.Copy(), IsEmpty());
}

TEST(TraceRecorder, CopiesSeveralPieces) {
  TraceRecorder recorder(1000);
  for (uint64_t id = 0; id < 2345; ++id) recorder.Add(Event(id));
  const std::vector<uint64_t> ids = Ids(recorder);
  ASSERT_EQ(ids.size(), 1000u);
  for (size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(ids[i], 1345 + i);
}

TEST(TraceRecorder, CopiesWhileEventsAreAdded) {
  TraceRecorder recorder(1000);
  std::atomic<uint64_t> added{0};
  std::jthread adder([&](const std::stop_token& stop) {
    for (uint64_t id = 0; !stop.stop_requested(); ++id) {
      recorder.Add(Event(id));
      added.store(id + 1);
    }
  });
  while (added.load() < 1000) std::this_thread::yield();
  for (int i = 0; i < 200; ++i) {
    const std::vector<TraceEvent> copy = recorder.Copy();
    const uint64_t after = added.load() + 1;
    ASSERT_LE(copy.size(), 1000u);
    for (size_t n = 0; n < copy.size(); ++n) {
      ASSERT_EQ(copy[n].begin_ns, copy[n].id * 3) << "an event is copied whole";
      ASSERT_TRUE(n == 0 || copy[n].id > copy[n - 1].id) << "in order, each once";
      ASSERT_LT(copy[n].id, after);
    }
  }
  adder.request_stop();
  adder.join();
  EXPECT_EQ(recorder.Copy().size(), 1000u);
}

}  // namespace
}  // namespace abacus
