// Status and Result<T>: how every part of Abacus reports an error.
//
// Errors are values. A Status carries a code that programs act on and a message that a person acts on: what was wrong,
// where (file, line, key, query id), what to do. The codes up to kInternal travel on the wire (client/protocol.h);
// the ones after it never leave the process that made them.
//
// Header-only and free of dependencies beyond tl::expected, so the client library can use it without linking shm/.
// Thread rule: plain values; no shared state.
#ifndef ABACUS_BASE_STATUS_H_
#define ABACUS_BASE_STATUS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace abacus {

enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument,      // the request is wrong; `field` of the reply names the culprit
  kUnknownModel,         // no service of that name
  kOverloaded,           // a bounded resource (queue, arena, bytes of this client) is used up; retry later
  kDeadlineUnreachable,  // predicted not to make its deadline; answered at once without running
  kDeadlineExceeded,     // its deadline passed while it waited
  kWorkerFailed,         // the worker died or reported an error while it held the query
  kShuttingDown,         // the controller drains and takes no new work
  kInternal,             // a defect of Abacus itself
  kCancelled,            // its client cancelled it
  // Local to one process:
  kTimeout,      // the caller's own time limit passed
  kUnavailable,  // the peer cannot be reached, or a resource of the machine is missing
  kNotFound,     // a file, key or segment does not exist
  kAlreadyExists,
};

inline constexpr std::array<std::string_view, 14> kStatusCodeNames = {
    "OK",
    "INVALID_ARGUMENT",
    "UNKNOWN_MODEL",
    "OVERLOADED",
    "DEADLINE_UNREACHABLE",
    "DEADLINE_EXCEEDED",
    "WORKER_FAILED",
    "SHUTTING_DOWN",
    "INTERNAL",
    "CANCELLED",
    "TIMEOUT",
    "UNAVAILABLE",
    "NOT_FOUND",
    "ALREADY_EXISTS",
};
// Codes that may appear in a reply: kOk .. kCancelled.
inline constexpr size_t kWireStatusCount = static_cast<size_t>(StatusCode::kCancelled) + 1;

inline constexpr std::string_view StatusCodeName(StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kStatusCodeNames.size() ? kStatusCodeNames[index] : "INTERNAL";
}

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status Ok() { return {}; }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  std::string ToString() const { return ok() ? "OK" : std::string(StatusCodeName(code_)) + ": " + message_; }
  // The same error with `context` put in front: the caller's part of the trail.
  Status WithContext(std::string_view context) const {
    return ok() ? *this : Status(code_, std::string(context) + ": " + message_);
  }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

template <class T>
using Result = tl::expected<T, Status>;

inline tl::unexpected<Status> Error(StatusCode code, std::string message) {
  return tl::unexpected<Status>(Status(code, std::move(message)));
}
inline tl::unexpected<Status> Error(Status status) { return tl::unexpected<Status>(std::move(status)); }

}  // namespace abacus

// Leaves the enclosing function (returning Status or Result) when `expr`, a Status, is an error.
#define ABACUS_RETURN_IF_ERROR(expr)                                      \
  do {                                                                    \
    if (::abacus::Status abacus_status_ = (expr); !abacus_status_.ok()) { \
      return ::abacus::internal::AsReturn(std::move(abacus_status_));     \
    }                                                                     \
  } while (false)

namespace abacus::internal {
// Converts to Status or to any Result<T>, whichever the enclosing function returns.
struct StatusReturn {
  Status status;
  operator Status() && { return std::move(status); }  // NOLINT(google-explicit-constructor)
  template <class T>
  operator Result<T>() && {  // NOLINT(google-explicit-constructor)
    return Error(std::move(status));
  }
};
inline StatusReturn AsReturn(Status status) { return {std::move(status)}; }
}  // namespace abacus::internal

#endif  // ABACUS_BASE_STATUS_H_
