#include "controller/schedule/query_queue.h"

#include <algorithm>

namespace abacus {
namespace {

constexpr size_t kCompactAt = 64;

std::ptrdiff_t Offset(size_t index) { return static_cast<std::ptrdiff_t>(index); }

}  // namespace

void QueryQueue::Insert(const WaitingQuery& query) {
  const Key key = KeyOf(query);
  const auto begin = queries_.begin() + Offset(head_);
  if (begin == queries_.end() || KeyOf(queries_.back()) < key) {
    queries_.push_back(query);
    return;
  }
  const auto place = std::partition_point(begin, queries_.end(), [&](const auto& other) { return KeyOf(other) < key; });
  if (head_ > 0 && place - begin < queries_.end() - place) {
    std::move(begin, place, begin - 1);
    *(place - 1) = query;
    --head_;
  } else {
    queries_.insert(place, query);
  }
}

QueryQueue::Places QueryQueue::Find(uint64_t due_ns, uint64_t order) const {
  const auto key = std::pair(due_ns, order);
  const auto key_of = [](const WaitingQuery& query) { return std::pair(query.due_ns(), query.order); };
  const auto found = std::ranges::equal_range(waiting(), key, {}, key_of);
  const auto begin = static_cast<uint32_t>(found.begin() - waiting().begin());
  return {begin, begin + static_cast<uint32_t>(found.size())};
}

void QueryQueue::LetBeLate(uint32_t index, uint64_t late_ns) {
  const WaitingQuery& query = waiting()[index];
  std::vector<WaitingQuery> parts;
  TakePlaces(Find(query.due_ns(), query.order), [&](const WaitingQuery& part) { parts.push_back(part); });
  for (WaitingQuery& part : parts) {
    part.late_ns = late_ns;
    Insert(part);
  }
}

void QueryQueue::Remove(std::span<const uint32_t> indices) {
  if (indices.empty()) return;
  WaitingQuery* const at = queries_.data() + head_;
  const size_t end = size_t{indices.back()} + 1;
  if (end - indices.size() <= size() - indices.front() - indices.size()) {  // those in front move back
    size_t to = end, left = indices.size();
    for (size_t from = end; from-- > 0;) {
      if (left > 0 && indices[left - 1] == from) {
        --left;
      } else {
        at[--to] = at[from];
      }
    }
    Advance(indices.size());
  } else {  // those behind move up
    size_t to = indices.front(), next = 0;
    for (size_t from = to; from < size(); ++from) {
      if (next < indices.size() && indices[next] == from) {
        ++next;
      } else {
        at[to++] = at[from];
      }
    }
    queries_.resize(head_ + to);
  }
}

void QueryQueue::Remove(Places places) {
  const auto begin = queries_.begin() + Offset(head_);
  if (places.begin <= size() - places.end) {
    std::move_backward(begin, begin + places.begin, begin + places.end);
    Advance(places.end - places.begin);
  } else {
    queries_.erase(begin + places.begin, begin + places.end);
  }
}

void QueryQueue::Advance(size_t count) {
  head_ += count;
  if (head_ < kCompactAt || head_ * 2 < queries_.size()) return;
  queries_.erase(queries_.begin(), queries_.begin() + Offset(head_));
  head_ = 0;
}

}  // namespace abacus
