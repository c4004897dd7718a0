// abacus-client infer: one query, or the same one several times.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "client/commands.h"
#include "client/npy.h"

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownValues = 8;

std::vector<double> FirstValues(const Tensor& tensor) {
  std::vector<double> values(std::min(kShownValues, tensor.bytes.size() / DTypeBytes(tensor.dtype)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = ElementAt(tensor.dtype, tensor.bytes, i);
  return values;
}

void PrintJson(const InferReply& reply, double latency_us) {
  const protocol::Timing& t = reply.timing;
  Json outputs = Json::array();
  for (const Tensor& tensor : reply.outputs) {
    const auto dims = tensor.shape.dims();
    outputs.push_back({{"name", tensor.name},
                       {"dtype", DTypeName(tensor.dtype)},
                       {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                       {"first_values", FirstValues(tensor)}});
  }
  const Json json = {{"status", StatusCodeName(reply.status.code())},
                     {"message", reply.status.message()},
                     {"field", reply.field},
                     {"model", reply.model},
                     {"digest", reply.digest},
                     {"latency_us", latency_us},
                     {"timing",
                      {{"queued_us", t.queued_us},
                       {"executed_us", t.executed_us},
                       {"total_us", t.total_us},
                       {"rounds", t.rounds},
                       {"predicted_us", t.predicted_us}}},
                     {"outputs", std::move(outputs)}};
  std::puts(json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

void PrintText(const InferReply& reply, double latency_us) {
  const protocol::Timing& t = reply.timing;
  std::printf("%s", reply.status.ToString().c_str());
  if (!reply.field.empty()) std::printf(" (field %s)", reply.field.c_str());
  std::printf("\n  %.2f ms here; %.2f ms in the server: queued %.2f ms, executed %.2f ms in %u rounds",
              latency_us / 1e3, static_cast<double>(t.total_us) / 1e3, static_cast<double>(t.queued_us) / 1e3,
              static_cast<double>(t.executed_us) / 1e3, t.rounds);
  if (t.predicted_us > 0) std::printf(", predicted %.2f ms", static_cast<double>(t.predicted_us) / 1e3);
  std::printf("\n");
  for (const Tensor& tensor : reply.outputs) {
    std::printf("  %s %s%s:", tensor.name.c_str(), std::string(DTypeName(tensor.dtype)).c_str(),
                tensor.shape.ToString().c_str());
    for (double value : FirstValues(tensor)) std::printf(" %g", value);
    std::printf(tensor.bytes.size() / DTypeBytes(tensor.dtype) > kShownValues ? " ...\n" : "\n");
  }
}

Status WriteOutputs(const InferReply& reply, const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return Status(StatusCode::kUnavailable, "cannot make " + directory.string() + ": " + error.message());
  for (const Tensor& tensor : reply.outputs) {
    std::string file = tensor.name + ".npy";
    std::replace(file.begin(), file.end(), '/', '_');  // a server chooses the name, never the folder
    ABACUS_RETURN_IF_ERROR(WriteNpy(directory / file, tensor));
  }
  return Status::Ok();
}

Result<InferRequest> MakeRequest(const InferCommandOptions& options) {
  InferRequest request;
  request.model = options.model;
  request.qos_us = options.qos_us;
  for (const std::string& input : options.inputs) {
    auto tensor = ReadInput(input);
    if (!tensor) return Error(tensor.error());
    request.inputs.push_back(std::move(*tensor));
  }
  if (!options.synthetic.empty()) {
    const auto shape = ParseSyntheticShape(options.synthetic);
    if (!shape) return Error(shape.error().WithContext("--synthetic"));
    request.synthetic = *shape;
  }
  return request;
}

// The reply; `stop` cancels the query.
Result<InferReply> InferUntil(Client& client, const InferRequest& request, const std::atomic<bool>& stop) {
  constexpr auto kLook = std::chrono::milliseconds(20);
  PendingReply reply = client.Submit(request);
  bool cancelled = false;
  while (reply.wait_for(kLook) != std::future_status::ready) {
    if (stop && !std::exchange(cancelled, true)) client.Cancel(reply.id());
  }
  return reply.get();
}

// Returns whether all replies were OK; an error where a query got none, or a file could not be written.
Result<bool> Infer(const CommonOptions& common, const InferCommandOptions& options) {
  const auto request = MakeRequest(options);
  if (!request) return Error(request.error());
  const auto client = ConnectTo(common);
  if (!client) return Error(client.error());
  const std::atomic<bool>& stop = StopOnSignal();
  bool all_ok = true;
  for (uint64_t i = 0; i < options.repeat; ++i) {
    if (stop) return false;
    const auto start = std::chrono::steady_clock::now();
    const auto reply = InferUntil(**client, *request, stop);
    if (!reply) return Error(reply.error());
    const double latency_us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    common.json ? PrintJson(*reply, latency_us) : PrintText(*reply, latency_us);
    all_ok = all_ok && reply->status.ok();
    if (reply->status.ok() && !options.output_dir.empty()) {
      ABACUS_RETURN_IF_ERROR(WriteOutputs(*reply, options.output_dir));
    }
  }
  return all_ok;
}

}  // namespace

int RunInferCommand(const CommonOptions& common, const InferCommandOptions& options) {
  const auto all_ok = Infer(common, options);
  return all_ok ? (*all_ok ? 0 : 1) : ReportError(common, all_ok.error());
}

}  // namespace abacus
