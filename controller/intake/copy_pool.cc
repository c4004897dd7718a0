#include "controller/intake/copy_pool.h"

#include <pthread.h>

#include <utility>

namespace abacus {
namespace {

constexpr size_t kMaxSpare = 256;

}  // namespace

CopyPool::CopyPool(uint32_t threads, QueryTable* table, std::span<std::byte> arena,
                   std::function<void()> wake_front_end)
    : table_(*table), arena_(arena), wake_front_end_(std::move(wake_front_end)), held_slots_(table->capacity(), false) {
  for (uint32_t i = 0; threads > 1 && i < threads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) {
      pthread_setname_np(pthread_self(), "intake");
      Work(stop);
    });
  }
}

CopyPool::~CopyPool() {
  for (std::jthread& thread : threads_) thread.request_stop();
  threads_.clear();
}

std::unique_ptr<TensorCopy> CopyPool::Fresh() {
  if (spare_.empty()) return std::make_unique<TensorCopy>();
  std::unique_ptr<TensorCopy> copy = std::move(spare_.back());
  spare_.pop_back();
  return copy;
}

bool CopyPool::Run(std::unique_ptr<TensorCopy>* copy) {
  TensorCopy& it = **copy;
  if (threads_.empty() || it.bytes < kSmallBytes) {
    RunCopy(table_[it.slot], arena_, &it);
    return true;
  }
  if (!it.outputs()) held_slots_[it.slot] = true;
  held_.fetch_add(1, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(*copy));
  }
  waiting_changed_.notify_one();
  return false;
}

void CopyPool::Work(const std::stop_token& stop) {
  for (;;) {
    std::unique_lock lock(mutex_);
    if (!waiting_changed_.wait(lock, stop, [this] { return !waiting_.empty(); }) || stop.stop_requested()) return;
    std::unique_ptr<TensorCopy> copy = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    RunCopy(table_[copy->slot], arena_, copy.get());
    done_.Post(std::move(copy));
    wake_front_end_();
  }
}

void CopyPool::Recycle(std::unique_ptr<TensorCopy> copy) {
  copy->sources.clear();
  copy->place = {};
  copy->rejection.reset();
  if (spare_.size() < kMaxSpare) spare_.push_back(std::move(copy));
}

}  // namespace abacus
