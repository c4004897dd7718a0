#include "controller/schedule/query_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace abacus {
namespace {

using testing::ElementsAre;

std::vector<uint64_t> Orders(const QueryQueue& queue) {
  std::vector<uint64_t> orders;
  for (const WaitingQuery& query : queue.waiting()) orders.push_back(query.order);
  return orders;
}
WaitingQuery Query(uint64_t order, uint64_t deadline_ns, uint32_t first_row = 0) {
  return {.first_row = first_row, .order = order, .deadline_ns = deadline_ns};
}

TEST(QueryQueue, IsOrderedByUrgencyThenByArrivalThenByRows) {
  QueryQueue queue;
  queue.Insert(Query(1, 500));
  queue.Insert(Query(2, 300));
  queue.Insert(Query(3, 500));
  queue.Insert(Query(4, 300, 8));
  queue.Insert(Query(4, 300, 0));
  EXPECT_THAT(Orders(queue), ElementsAre(2, 4, 4, 1, 3));
  EXPECT_EQ(queue.waiting()[1].first_row, 0u);
  EXPECT_EQ(queue.waiting()[2].first_row, 8u);
  const QueryQueue::Places parts = queue.Find(300, 4);
  EXPECT_EQ(parts.begin, 1u);
  EXPECT_EQ(parts.end, 3u);
  EXPECT_TRUE(queue.Find(300, 3).empty());
}

TEST(QueryQueue, OneThatMayBeLateMovesWithAllItsParts) {
  QueryQueue queue;
  for (const uint32_t row : {0u, 4u}) queue.Insert(Query(1, 100, row));
  queue.Insert(Query(2, 200));
  queue.Insert(Query(3, 400));
  queue.LetBeLate(1, 150);
  EXPECT_THAT(Orders(queue), ElementsAre(2, 1, 1, 3));
  EXPECT_EQ(queue.waiting()[1].due_ns(), 250u);
  EXPECT_EQ(queue.waiting()[2].first_row, 4u);
}

// Against a vector that is sorted anew each time.
TEST(QueryQueue, BehavesLikeASortedListUnderRandomUse) {
  std::vector<WaitingQuery> model;
  QueryQueue queue;
  std::mt19937 random(3);
  uint64_t last_order = 0;
  const auto key = [](const WaitingQuery& query) { return std::tuple(query.due_ns(), query.order, query.first_row); };
  const auto sort = [&] { std::ranges::sort(model, {}, key); };
  for (int i = 0; i < 20'000; ++i) {
    const unsigned what = random() % 8;
    if (what < 3 || model.empty()) {
      // Mostly in the order of deadlines, as with one target for all.
      const uint64_t deadline_ns = static_cast<uint64_t>(i) + (random() % 4 == 0 ? random() % 500 : 500);
      ++last_order;
      for (uint32_t part = 0; part < (random() % 5 == 0 ? 3u : 1u); ++part) {
        queue.Insert(Query(last_order, deadline_ns, part * 4));
        model.push_back(Query(last_order, deadline_ns, part * 4));
      }
      sort();
    } else if (what < 6) {
      std::vector<uint32_t> indices;
      const size_t reach = what == 3 ? std::min<size_t>(model.size(), 8) : model.size();
      for (uint32_t index = 0; index < reach; ++index) {
        if (random() % 3 == 0 && indices.size() < 64) indices.push_back(index);
      }
      std::vector<WaitingQuery> taken;
      queue.TakeAll(indices, [&](const WaitingQuery& query) { taken.push_back(query); });
      ASSERT_EQ(taken.size(), indices.size());
      for (size_t n = indices.size(); n-- > 0;) {
        ASSERT_EQ(key(taken[n]), key(model[indices[n]]));
        model.erase(model.begin() + indices[n]);
      }
      if (what == 5) {  // could not run: keep their places
        for (const WaitingQuery& query : taken) {
          queue.Insert(query);
          model.push_back(query);
        }
        sort();
      }
    } else {
      const WaitingQuery one = model[random() % model.size()];
      const QueryQueue::Places places = queue.Find(one.due_ns(), one.order);
      ASSERT_FALSE(places.empty());
      if (what == 6) {
        queue.TakePlaces(places, [&](const WaitingQuery& part) { ASSERT_EQ(part.order, one.order); });
        std::erase_if(model, [&](const WaitingQuery& part) { return part.order == one.order; });
      } else if (!one.probe()) {
        queue.LetBeLate(places.begin, 200);
        for (WaitingQuery& part : model) part.late_ns = part.order == one.order ? 200 : part.late_ns;
        sort();
      }
    }
    ASSERT_EQ(queue.size(), model.size());
    const auto same = [&](const WaitingQuery& a, const WaitingQuery& b) { return key(a) == key(b); };
    ASSERT_TRUE(std::ranges::equal(queue.waiting(), model, same)) << i;
  }
}

}  // namespace
}  // namespace abacus
