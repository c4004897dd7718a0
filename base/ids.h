// Numbers that name things, as types that do not convert into each other.
//
// A service, the worker slot that runs it and the lane of its GPU are numbered apart: a service can move to another
// slot, and a controller has as many lanes as it drives GPUs. Thread rule: plain values.
#ifndef ABACUS_BASE_IDS_H_
#define ABACUS_BASE_IDS_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace abacus {

template <class Tag>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(size_t value) : value_(static_cast<uint32_t>(value)) {}
  constexpr uint32_t value() const { return value_; }
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;

 private:
  uint32_t value_ = 0;
};

using ServiceId = StrongId<struct ServiceTag>;  // a name that clients ask for; never reused while a controller runs
using WorkerId = StrongId<struct WorkerTag>;    // a slot of the segment; its generation counts the processes in it
using LaneId = StrongId<struct LaneTag>;        // all that shares one GPU

}  // namespace abacus

template <class Tag>
struct std::hash<abacus::StrongId<Tag>> {
  size_t operator()(const abacus::StrongId<Tag>& id) const noexcept { return id.value(); }
};

#endif  // ABACUS_BASE_IDS_H_
