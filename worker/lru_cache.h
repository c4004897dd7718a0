// LruCache: a bounded map that drops its least recently used entry. The runtimes keep compiled operator ranges in it.
//
// Thread rule: one thread. Ownership: entries are held by value; a pointer from Find or Insert is valid until the next
// Insert.
#ifndef ABACUS_WORKER_LRU_CACHE_H_
#define ABACUS_WORKER_LRU_CACHE_H_

#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace abacus {

template <class Key, class Value>
class LruCache {
 public:
  // A capacity of 0 counts as 1.
  explicit LruCache(size_t capacity) : capacity_(capacity == 0 ? 1 : capacity) {}

  // The entry of `key`, now the most recently used one; nullptr when absent.
  Value* Find(const Key& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &found->second->second;
  }

  // Adds `value` under a key that is not present, and drops the oldest entry when the cache is full.
  Value* Insert(const Key& key, Value value) {
    if (entries_.size() == capacity_) {
      index_.erase(entries_.back().first);
      entries_.pop_back();
    }
    entries_.emplace_front(key, std::move(value));
    index_.emplace(key, entries_.begin());
    return &entries_.front().second;
  }

  size_t size() const { return entries_.size(); }

 private:
  using Entries = std::list<std::pair<Key, Value>>;
  const size_t capacity_;
  Entries entries_;  // most recently used first
  std::map<Key, typename Entries::iterator> index_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_LRU_CACHE_H_
