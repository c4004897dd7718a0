#include "controller/job_queue.h"

#include <gtest/gtest.h>

#include <list>
#include <random>

namespace abacus {
namespace {

TEST(JobQueue, BehavesLikeAListUnderRandomUse) {
  std::vector<Job> jobs(500);
  std::list<Job*> model;
  JobQueue queue;
  std::mt19937 random(3);
  size_t next = 0;
  for (int i = 0; i < 5000; ++i) {
    const int what = static_cast<int>(random() % 4);
    if (what == 0 && next < jobs.size()) {
      queue.PushBack(&jobs[next]);
      model.push_back(&jobs[next++]);
    } else if (what == 1 && !model.empty()) {  // taken, ran in part, came back
      Job* front = model.front();
      queue.Remove(front);
      queue.PushFront(front);
    } else if (what == 2 && !model.empty()) {
      auto it = std::next(model.begin(), static_cast<long>(random() % model.size()));
      queue.Remove(*it);
      model.erase(it);
    } else if (!model.empty()) {
      queue.Remove(model.front());
      model.pop_front();
    }
    ASSERT_EQ(queue.size(), model.size());
    ASSERT_TRUE(std::equal(model.begin(), model.end(), queue.waiting().begin(), queue.waiting().end()));
  }
}

}  // namespace
}  // namespace abacus
