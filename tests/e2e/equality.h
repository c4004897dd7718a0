// Many services under many clients answer as each does alone: every query of a fixed set is answered once by a
// controller that serves its service alone, one query at a time, and then by one that serves all services to clients
// that send everything at once. All output bytes must be equal; where jobs of several queries make other batches of
// what is computed, up to the model's tolerance.
//
// The queries of a service: each row of a small set by itself, every ordered pair of rows, and pairs of pairs. So a row
// that went to another query, another place of the batch or another service shows in the bytes.
#ifndef ABACUS_TESTS_E2E_EQUALITY_H_
#define ABACUS_TESTS_E2E_EQUALITY_H_

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "models/model_spec.h"
#include "tests/e2e/closeness.h"
#include "tests/e2e/harness.h"

namespace abacus::test {

struct EqualityService {
  ModelSpec spec;          // named as the service
  std::string model_file;  // bytes of the TorchScript; empty: the worker needs none, and gives back what it gets
};

struct EqualityOptions {
  std::string device = "fake";
  std::string policy = "free";
  bool batching = true;  // jobs of several queries
  int clients = 8;
  int window = 16;  // queries of a client that wait for their replies
  int turns = 1;    // how often each client sends every query
};

inline constexpr uint64_t kRowsOfASet = 6;

inline std::string ToToml(const ModelSpec& spec) {
  const auto list = [](const auto& values, const auto& text) {
    std::string joined;
    for (const auto& value : values) joined += (joined.empty() ? "" : ", ") + text(value);
    return "[" + joined + "]";
  };
  const auto number = [](int64_t value) { return std::to_string(value); };
  const auto dimension = [](const std::string& name) {
    return name == "batch" || name == "sequence" ? "\"" + name + "\"" : name;
  };
  std::string toml = "name = \"" + spec.name + "\"\nfile = \"" + spec.name + ".pt\"\n";
  if (!spec.batchable) toml += "batchable = false\n";
  toml += "[buckets]\nbatch = " + list(spec.batch_sizes, number) + "\n";
  if (spec.has_sequence()) toml += "sequence = " + list(spec.sequence_lengths, number) + "\n";
  if (spec.sequence_padding == SequencePadding::kExact) toml += "sequence_padding = \"exact\"\n";
  for (const bool of_inputs : {true, false}) {
    for (const TensorSpec& tensor : of_inputs ? spec.inputs : spec.outputs) {
      toml += std::string(of_inputs ? "[[inputs]]" : "[[outputs]]") + "\nname = \"" + tensor.name + "\"\ndtype = \"" +
              std::string(DTypeName(tensor.dtype)) + "\"\nshape = " + list(DimNames(tensor), dimension) + "\n";
      if (of_inputs && tensor.range) {
        toml += "range = [" + number(tensor.range->low) + ", " + number(tensor.range->high) + "]\n";
      }
    }
  }
  return toml;
}

// What one row of an input holds follows from the service, the input and the row's number alone.
inline Tensor RowsOf(const ModelSpec& spec, size_t input, uint64_t service, const std::vector<uint64_t>& rows,
                     int64_t sequence) {
  const TensorSpec& tensor = spec.inputs[input];
  const Shape shape = ShapeAt(tensor, static_cast<int64_t>(rows.size()), sequence);
  const size_t width = static_cast<size_t>(shape.Elements().value()) / rows.size();
  std::vector<float> floats;
  std::vector<int64_t> integers;
  for (const uint64_t row : rows) {
    std::mt19937_64 random(service * 10'000 + input * 100 + row);
    for (size_t i = 0; i < width; ++i) {
      if (tensor.dtype == DType::kInt64) {
        integers.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(tensor.range->high + 1)));
      } else {
        floats.push_back(static_cast<float>(random() % 4'000'001) / 1e6f - 2.0f);
      }
    }
  }
  return tensor.dtype == DType::kInt64 ? TensorOf(tensor.name, tensor.dtype, shape, integers)
                                       : TensorOf(tensor.name, tensor.dtype, shape, floats);
}

// The queries of a service, always the same.
inline std::vector<InferRequest> QueriesOf(const ModelSpec& spec, uint64_t service) {
  std::vector<std::vector<uint64_t>> sets;
  for (uint64_t a = 0; a < kRowsOfASet; ++a) {
    sets.push_back({a});
    for (uint64_t b = 0; b < kRowsOfASet; ++b) sets.push_back({a, b});
    const uint64_t b = (a + 1) % kRowsOfASet;
    sets.push_back({a, b, b, a});
    if (spec.batchable) sets.push_back({b, a, b});
  }
  std::vector<InferRequest> queries;
  for (const std::vector<uint64_t>& rows : sets) {
    int64_t sequence = 0;
    if (spec.has_sequence()) {
      const auto& lengths = spec.sequence_lengths;
      const auto mix = static_cast<int64_t>(rows.front() + 2 * rows.back());
      sequence = spec.sequence_padding == SequencePadding::kExact ? lengths[static_cast<size_t>(mix) % lengths.size()]
                                                                  : 1 + mix % lengths.back();
    }
    InferRequest request;
    request.model = spec.name;
    request.qos_us = 60'000'000;
    for (size_t i = 0; i < spec.inputs.size(); ++i) request.inputs.push_back(RowsOf(spec, i, service, rows, sequence));
    queries.push_back(std::move(request));
  }
  return queries;
}

// All bytes of an answer with what they belong to; or what went wrong.
inline std::string AnswerText(const Result<InferReply>& reply) {
  if (!reply) return "no reply: " + reply.error().ToString();
  if (!reply->status.ok()) return "refused: " + reply->status.ToString();
  std::string text = "OK";
  for (const Tensor& tensor : reply->outputs) {
    text += " " + tensor.name + " " + tensor.shape.ToString() + " ";
    text.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return text;
}

inline ControllerProcess::Options ServicesOf(const std::vector<EqualityService>& services,
                                             const EqualityOptions& options) {
  ControllerProcess::Options controller;
  controller.bin_dir = ABACUS_BIN_DIR;
  controller.on_complaint = [](const std::string& complaint) { ADD_FAILURE() << complaint; };
  controller.server = "arena_mib = 64\n";
  controller.ready_timeout_s = 240;  // of many real workers on few cores
  controller.config = "[scheduler]\npolicy = \"" + options.policy + "\"\nbatching = \"" +
                      (options.batching ? "greedy" : "off") + "\"\nabandon = false\n[worker]\ndevice = \"" +
                      options.device + "\"\n";
  for (const EqualityService& service : services) {
    const std::string& name = service.spec.name;
    controller.config += "[[service]]\nname = \"" + name + "\"\nmodel = \"" + name + ".toml\"\nqueue_limit = 100000\n";
    controller.files[name + ".toml"] = ToToml(service.spec);
    if (!service.model_file.empty()) controller.files[name + ".pt"] = service.model_file;
  }
  return controller;
}

using Answers = std::vector<std::vector<Result<InferReply>>>;  // by service and query

// What each service answers when a controller serves it alone to a client that waits for every reply.
inline Answers AnswersAlone(const std::vector<EqualityService>& services, const EqualityOptions& options) {
  Answers answers;
  for (size_t s = 0; s < services.size(); ++s) {
    std::vector<Result<InferReply>>& own = answers.emplace_back();
    ControllerProcess controller(ServicesOf({services[s]}, options));
    EXPECT_EQ(controller.error(), "");
    const auto client = controller.error().empty() ? ConnectTo(controller.ipc()) : nullptr;
    if (client == nullptr) return answers;
    for (const InferRequest& query : QueriesOf(services[s].spec, s)) {
      own.push_back(client->Infer(query));
      EXPECT_TRUE(own.back() && own.back()->status.ok()) << services[s].spec.name << ": " << AnswerText(own.back());
    }
  }
  return answers;
}

// What differs between an answer and the one that the query had alone; empty: nothing.
inline std::string AnswerDifference(const EqualityService& service, const EqualityOptions& options,
                                    const Result<InferReply>& alone, const Result<InferReply>& answer) {
  if (!answer || !answer->status.ok()) return AnswerText(answer);
  if (answer->outputs.size() != alone->outputs.size()) return std::to_string(answer->outputs.size()) + " outputs";
  const bool one_query_a_job = !options.batching || !service.spec.batchable;
  const double tolerance = one_query_a_job || service.model_file.empty() ? 0 : service.spec.tolerance;
  for (size_t i = 0; i < answer->outputs.size(); ++i) {
    std::string difference = Difference(alone->outputs[i], answer->outputs[i], tolerance);
    if (!difference.empty()) return difference;
  }
  return "";
}

inline void ExpectAnswersAs(const Answers& alone, const std::vector<EqualityService>& services,
                            const EqualityOptions& options) {
  ASSERT_EQ(alone.size(), services.size());
  // The set must be able to show a swap: no two queries of all services have the same answer.
  std::vector<std::string> distinct;
  for (size_t s = 0; s < alone.size(); ++s) {
    for (const Result<InferReply>& answer : alone[s]) distinct.push_back(AnswerText(answer));
  }
  const size_t all = distinct.size();
  std::ranges::sort(distinct);
  const auto repeated = std::ranges::unique(distinct);
  ASSERT_EQ(all - repeated.size(), all) << "queries that have the same answer tell nothing";

  ControllerProcess controller(ServicesOf(services, options));
  ASSERT_EQ(controller.error(), "");
  std::vector<std::vector<InferRequest>> queries;
  for (size_t s = 0; s < services.size(); ++s) queries.push_back(QueriesOf(services[s].spec, s));

  std::mutex mutex;  // protects what follows
  size_t equal = 0;
  std::vector<std::string> wrong;
  const auto one_client = [&](int c) {
    const auto client = ConnectTo(c % 2 == 0 ? controller.tcp() : controller.ipc(), 120);
    if (client == nullptr) return;
    std::vector<std::pair<size_t, size_t>> order;
    for (int turn = 0; turn < options.turns; ++turn) {
      for (size_t s = 0; s < queries.size(); ++s) {
        for (size_t q = 0; q < queries[s].size(); ++q) order.emplace_back(s, q);
      }
    }
    std::mt19937 random(static_cast<unsigned>(c) + 1);
    std::ranges::shuffle(order, random);
    std::condition_variable room;
    int outstanding = 0;
    for (const auto& [s, q] : order) {
      {
        std::unique_lock lock(mutex);
        room.wait(lock, [&] { return outstanding < options.window; });
        ++outstanding;
      }
      client->SubmitAsync(queries[s][q], [&, s = s, q = q](const Result<InferReply>& reply) {
        const std::string difference = AnswerDifference(services[s], options, alone[s][q], reply);
        const std::lock_guard lock(mutex);
        if (difference.empty()) {
          ++equal;
        } else {
          wrong.push_back("client " + std::to_string(c) + ", " + services[s].spec.name + ", query " +
                          std::to_string(q) + ": " + difference);
        }
        --outstanding;
        room.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    room.wait(lock, [&] { return outstanding == 0; });
  };
  std::vector<std::thread> clients;
  for (int c = 0; c < options.clients; ++c) clients.emplace_back(one_client, c);
  for (std::thread& client : clients) client.join();

  EXPECT_EQ(equal, all * static_cast<size_t>(options.clients * options.turns));
  EXPECT_EQ(wrong.size(), 0u) << "the first: " << wrong.front();
  uint64_t jobs = 0, queries_of_jobs = 0;
  for (size_t s = 0; s < services.size(); ++s) {
    const ServiceStats& stats = controller.stats(s);
    const uint64_t own_jobs = stats.jobs.load(), own_queries = stats.job_queries.load();
    if (!options.batching || !services[s].spec.batchable) {
      EXPECT_EQ(own_jobs, own_queries) << services[s].spec.name;
    }
    jobs += own_jobs;
    queries_of_jobs += own_queries;
  }
  EXPECT_EQ(jobs < queries_of_jobs, options.batching)
      << "without jobs of several queries a run of batches tells little";
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return controller.region().header().arena_used_bytes.load() == 0; }));
}

inline void ExpectAnswersAsAlone(const std::vector<EqualityService>& services, const EqualityOptions& options) {
  ExpectAnswersAs(AnswersAlone(services, options), services, options);
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_E2E_EQUALITY_H_
