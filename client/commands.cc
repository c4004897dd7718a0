#include "client/commands.h"

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "client/npy.h"

namespace abacus {
namespace {

std::atomic<bool> g_stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

template <class T>
bool ParseNumber(std::string_view text, T* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

bool ParseShape(std::string_view text, Shape* shape) {
  while (!text.empty()) {
    int64_t dim = 0;
    if (!ParseNumber(TakePart(&text, ','), &dim) || dim < 0 || !shape->push_back(dim)) return false;
  }
  return true;
}

}  // namespace

const std::atomic<bool>& StopOnSignal() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return g_stop;
}

Result<std::unique_ptr<Client>> ConnectTo(const CommonOptions& common) {
  ClientOptions options;
  options.connect_timeout = options.receive_timeout =
      std::chrono::ceil<std::chrono::milliseconds>(std::chrono::nanoseconds(common.timeout_ns));
  return Client::Connect(common.address, options);
}

int ReportError(const CommonOptions& common, const Status& status) {
  if (common.json) {
    const nlohmann::ordered_json json = {{"status", StatusCodeName(status.code())}, {"message", status.message()}};
    std::puts(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::fprintf(stderr, "abacus-client: %s\n", status.ToString().c_str());
  }
  return 1;
}

Result<Tensor> ReadInput(std::string_view argument) {
  const auto fail = [&](std::string_view what) {
    return Error(StatusCode::kInvalidArgument, "--input " + std::string(argument) + ": " + std::string(what) +
                                                   "; write NAME=FILE.npy or NAME=FILE:DTYPE:D1,D2,... (raw bytes)");
  };
  const size_t equals = argument.find('=');
  if (equals == std::string_view::npos || equals == 0) return fail("the tensor's name is missing");
  std::string name(argument.substr(0, equals));
  const std::string_view source = argument.substr(equals + 1);
  if (source.ends_with(".npy")) return ReadNpy(source, std::move(name));
  const size_t shape_at = source.rfind(':');
  if (shape_at == std::string_view::npos || shape_at == 0) return fail("dtype and shape are missing");
  const size_t dtype_at = source.rfind(':', shape_at - 1);
  if (dtype_at == std::string_view::npos) return fail("dtype and shape are missing");
  const auto dtype = ParseDType(source.substr(dtype_at + 1, shape_at - dtype_at - 1));
  if (!dtype) return fail("unknown dtype");
  Shape shape;
  if (!ParseShape(source.substr(shape_at + 1), &shape)) return fail("bad shape");
  return ReadRaw(source.substr(0, dtype_at), std::move(name), *dtype, shape);
}

Result<SyntheticShape> ParseSyntheticShape(std::string_view text) {
  SyntheticShape shape;
  const size_t x = std::min(text.find('x'), text.size());
  const bool batch_ok = ParseNumber(text.substr(0, x), &shape.batch) && shape.batch > 0;
  const bool sequence_ok = x == text.size() || (ParseNumber(text.substr(x + 1), &shape.sequence) && shape.sequence > 0);
  if (batch_ok && sequence_ok) return shape;
  return Error(StatusCode::kInvalidArgument,
               "'" + std::string(text) + "': write BATCH or BATCHxSEQUENCE, such as 4x64");
}

}  // namespace abacus
