#include "controller/schedule/query_queue.h"

#include <gtest/gtest.h>

#include <list>
#include <random>

namespace abacus {
namespace {

TEST(QueryQueue, BehavesLikeAListUnderRandomUse) {
  std::list<uint64_t> model;  // orders
  QueryQueue queue;
  std::mt19937 random(3);
  uint64_t last_order = 0;
  for (int i = 0; i < 5000; ++i) {
    const int what = static_cast<int>(random() % 4);
    if (what == 0) {
      queue.PushBack({.order = ++last_order});
      model.push_back(last_order);
    } else if (!model.empty()) {
      const size_t index = what == 1 ? 0 : random() % model.size();
      const auto it = std::next(model.begin(), static_cast<long>(index));
      const WaitingQuery taken = queue.Take(index);
      ASSERT_EQ(taken.order, *it);
      if (what == 2) {  // could not run: keeps its place
        queue.PutBack(taken);
      } else {
        model.erase(it);
      }
    }
    ASSERT_EQ(queue.size(), model.size());
    const auto same = [](uint64_t order, const WaitingQuery& query) { return order == query.order; };
    ASSERT_TRUE(std::equal(model.begin(), model.end(), queue.waiting().begin(), queue.waiting().end(), same));
  }
}

}  // namespace
}  // namespace abacus
