// TraceRequest: writes the trace when somebody asks for it, in a thread of its own: the asking thread goes on.
//
// A request during the writing is served after it; of several, the newest.
// Thread rule: Request from one thread. Ownership: borrows the recorder, which must outlive it.
#ifndef ABACUS_CONTROLLER_TRACE_TRACE_REQUEST_H_
#define ABACUS_CONTROLLER_TRACE_TRACE_REQUEST_H_

#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "controller/trace/trace_recorder.h"
#include "controller/trace/trace_writer.h"

namespace abacus {

class TraceRequest {
 public:
  TraceRequest(TraceSubject subject, const TraceRecorder* recorder, std::filesystem::path path)
      : recorder_(recorder), path_(std::move(path)), subject_(std::move(subject)) {}

  void Request();

 private:
  void WriteRequested();

  const TraceRecorder* const recorder_;
  const std::filesystem::path path_;
  const TraceSubject subject_;
  std::mutex mutex_;
  std::optional<std::vector<TraceEvent>> requested_;  // guarded by mutex_, as is writing_
  bool writing_ = false;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_TRACE_TRACE_REQUEST_H_
