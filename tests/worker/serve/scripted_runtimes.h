// Runtimes for tests of the executor: one that does what the test says, one that really works on batches.
#ifndef ABACUS_TESTS_WORKER_SERVE_SCRIPTED_RUNTIMES_H_
#define ABACUS_TESTS_WORKER_SERVE_SCRIPTED_RUNTIMES_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/tensor_layout.h"
#include "worker/runtime/model_runtime.h"

namespace abacus::test {

// Records what it is asked to run; fails or turns fatal on demand. Runs ranges inside Start, unless it is asynchronous:
// then they end, in order, as the test says.
class ScriptedRuntime : public ModelRuntime {
 public:
  struct Query {
    uint32_t rows, sequence;
    std::vector<const std::byte*> inputs;
    std::vector<std::byte*> outputs;
    bool operator==(const Query&) const = default;
  };
  struct Call {
    uint32_t bucket, first, last;
    std::vector<Query> queries;
    uint32_t gate = 0;
  };
  const BucketRanges& ranges(uint32_t) const override { return ranges_; }
  std::string device_name() const override { return "scripted device"; }
  std::string libraries() const override { return "none"; }
  std::string structure() const override { return "scripted structure"; }
  Status Start(const RangeRequest& range) override {
    Call call{range.bucket, range.first, range.last, {}, range.gate};
    for (const QueryTensors& query : range.tensors) {
      call.queries.push_back({query.rows,
                              query.sequence,
                              {query.inputs.begin(), query.inputs.end()},
                              {query.outputs.begin(), query.outputs.end()}});
    }
    calls.push_back(std::move(call));
    if (result.ok()) ++outstanding;
    EXPECT_LE(outstanding, asynchronous ? kMaxStarted : 1);
    return result;
  }
  Result<std::optional<DeviceTimes>> Poll() override {
    EXPECT_GT(outstanding, 0u) << "nothing to poll for";
    ++polls;
    if (!asynchronous || fatal || (end_at_poll != 0 && polls >= end_at_poll)) ends.push_back(result);
    if (ends.empty()) return std::nullopt;
    const Status ended = ends.front();
    ends.pop_front();
    --outstanding;
    if (!ended.ok()) return Error(ended);
    return DeviceTimes{100 + polls, 200 + polls};
  }
  Status UseGate(GateWord* gate) override {
    return asynchronous ? (used_gate = gate, Status::Ok()) : ModelRuntime::UseGate(gate);
  }
  bool IsFatal() const override { return fatal; }

  std::vector<Call> calls;
  Status result;  // of Start
  bool fatal = false;
  bool asynchronous = false;
  std::deque<Status> ends;  // results of ranges that have ended and are not yet polled for
  size_t end_at_poll = 0;   // from this poll on every range has ended; 0: only those of `ends`
  size_t outstanding = 0;
  size_t polls = 0;
  GateWord* used_gate = nullptr;

 private:
  const BucketRanges ranges_{10, {0, 4, 7, 10}, 1000};
};

// Runs a model of one float32 input and output, [batch, 4], on a batch of its own, as the real runtimes do:
// y = 10 * x + the row's place in the batch.
class BatchRuntime : public ModelRuntime {
 public:
  explicit BatchRuntime(const ModelSpec& spec) : spec_(spec) {}
  const BucketRanges& ranges(uint32_t) const override { return ranges_; }
  std::string device_name() const override { return "batch"; }
  std::string libraries() const override { return "none"; }
  Status Start(const RangeRequest& range) override {
    const Bucket bucket = spec_.bucket(range.bucket);
    if (range.first == 0) {
      batch_.assign(static_cast<size_t>(bucket.batch) * 4, -1.0f);
      ForEachQuery(range, [&](const QueryTensors& query, int64_t row) {
        GatherRows(Bytes(), query.inputs[0], SlabOf(spec_.inputs[0], bucket, row, query.rows, query.sequence));
      });
    }
    if (range.last == ranges_.operators) {
      for (size_t i = 0; i < batch_.size(); ++i) batch_[i] = 10 * batch_[i] + static_cast<float>(i / 4);
      ForEachQuery(range, [&](const QueryTensors& query, int64_t row) {
        ScatterRows(query.outputs[0], Bytes(), SlabOf(spec_.outputs[0], bucket, row, query.rows, query.sequence));
      });
    }
    return Status::Ok();
  }

 private:
  std::byte* Bytes() { return reinterpret_cast<std::byte*>(batch_.data()); }
  static void ForEachQuery(const RangeRequest& range, const std::function<void(const QueryTensors&, int64_t)>& visit) {
    int64_t row = 0;
    for (const QueryTensors& query : range.tensors) {
      visit(query, row);
      row += query.rows;
    }
  }

  const ModelSpec& spec_;
  const BucketRanges ranges_{10, {0, 4, 7, 10}, 1000};
  std::vector<float> batch_;
};

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_SERVE_SCRIPTED_RUNTIMES_H_
