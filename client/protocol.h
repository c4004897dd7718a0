// The wire protocol between clients and the controller, version 1. docs/protocol.md describes it for other languages.
//
// A message is one ZeroMQ multipart message between a DEALER (client) and the controller's ROUTER: frame 0 is a msgpack
// map (the header), the following frames are raw tensors in the order in which the header lists them. Headers are
// decoded from bytes that nobody vouches for: every limit below is checked before anything is allocated for it, unknown
// keys are skipped, and a decode error names the field.
//
// Units: `_us` microseconds. Thread rule: free functions without state; the structs are plain values.
#ifndef ABACUS_CLIENT_PROTOCOL_H_
#define ABACUS_CLIENT_PROTOCOL_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace abacus::protocol {

inline constexpr uint64_t kVersion = 1;
inline constexpr size_t kMaxHeaderBytes = 64 * 1024;
inline constexpr size_t kMaxTensors = 16;          // inputs of one request, outputs of one reply
inline constexpr int64_t kMaxQueryParts = 64;      // rows of a query, in largest batches of its model
inline constexpr uint64_t kOutputAlignBytes = 64;  // of outputs in a region, from the begin of their place
inline constexpr size_t kMaxNameBytes = 128;       // model and tensor names, states, dimensions; printable ASCII
inline constexpr size_t kMaxMessageBytes = 4096;   // text for people (message, field): encoders and decoders cut it
inline constexpr size_t kMaxServices = 64;         // entries of a models or health reply
inline constexpr size_t kMaxBucketSizes = 64;      // batch sizes, and sequence lengths, of a model
inline constexpr size_t kMaxDepth = 8;             // nesting of a header
inline constexpr size_t kMaxEntries = 1024;        // of any array or map, unknown ones included
inline constexpr size_t kMaxRequestValues = 1024;  // msgpack values in a request header: bounds the time to decode it

enum class RequestType : uint8_t { kInfer = 0, kModels, kHealth, kCancel };

// A tensor: its bytes are a frame, or lie in a leased region (docs/protocol.md). Of a request `region` and `offset` are
// both given or both not; of a reply only `offset`, in the region that the query named for its outputs.
struct TensorHeader {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  uint64_t region = 0;                            // 0: none
  std::optional<uint64_t> offset = std::nullopt;  // bytes from the region's begin

  bool has_frame() const { return !offset; }
  friend bool operator==(const TensorHeader&, const TensorHeader&) = default;
};

struct Request {
  RequestType type = RequestType::kInfer;
  // Chosen by the client, unique among its queries in flight; comes back in the reply. Of kCancel: the query to cancel.
  uint64_t id = 0;
  std::string model;    // service name
  uint64_t qos_us = 0;  // latency target from arrival at the controller; 0: the service's default
  std::vector<TensorHeader> inputs;
  // Where the outputs are written: [outputs_offset, outputs_offset + outputs_bytes) of a leased region. 0: into frames.
  uint64_t outputs_region = 0;
  uint64_t outputs_offset = 0;
  uint64_t outputs_bytes = 0;
  // A synthetic query carries no tensors: the worker runs the bucket on its own stored input and the reply has no
  // outputs. For load tests without the cost of payloads.
  bool synthetic = false;
  uint32_t batch = 0;     // synthetic only
  uint32_t sequence = 0;  // synthetic only; 0 for models without a sequence dimension
  friend bool operator==(const Request&, const Request&) = default;
};

struct Timing {
  uint64_t queued_us = 0;    // from arrival until the round of its first operator range began
  uint64_t executed_us = 0;  // sum over its ranges: begin of the round until completion seen
  uint64_t total_us = 0;     // arrival until the reply was handed to the socket
  uint32_t rounds = 0;
  uint64_t predicted_us = 0;  // of a whole pass alone, when its job was formed; 0: no prediction
  friend bool operator==(const Timing&, const Timing&) = default;
};

struct TensorDescription {  // one input or output of a model
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<std::string> dims;  // a number, or "batch" / "sequence"
  bool has_range = false;         // integer inputs: allowed values [low, high]
  int64_t low = 0;
  int64_t high = 0;
  bool range_to_sequence = false;  // the highest value is the query's own sequence length; `high` is the longest one
  bool has_float_range = false;    // float inputs: allowed values [float_low, float_high]; NaN and Inf are not
  double float_low = 0;
  double float_high = 0;
  friend bool operator==(const TensorDescription&, const TensorDescription&) = default;
};

struct ModelDescription {
  std::string name;
  std::vector<TensorDescription> inputs;
  std::vector<TensorDescription> outputs;
  std::vector<int64_t> batch_sizes;       // buckets; a query is padded to the next one
  std::vector<int64_t> sequence_lengths;  // empty: no sequence dimension
  uint64_t qos_us = 0;                    // default latency target
  bool batchable = true;                  // false: rows depend on each other, only the batch sizes listed are served
  // What padding along the sequence does: "" nothing, "allowed" it changes answers and that was accepted, "exact" only
  // the lengths listed are served.
  std::string sequence_padding;
  std::string digest;  // of description and model file, 64 hexadecimal digits
  friend bool operator==(const ModelDescription&, const ModelDescription&) = default;
};

struct ServiceHealth {
  std::string name;
  std::string state;  // "starting", "ready", "failed", "restarting"
  int64_t worker_pid = 0;
  uint64_t queued = 0;
  uint64_t restarts = 0;
  std::string message;  // why it is not ready
  friend bool operator==(const ServiceHealth&, const ServiceHealth&) = default;
};

struct Reply {
  uint64_t id = 0;
  StatusCode status = StatusCode::kOk;
  std::string message;  // empty when OK
  std::string field;    // INVALID_ARGUMENT: path of the offending field, e.g. "inputs[0].shape"
  std::string model;
  std::vector<TensorHeader> outputs;
  Timing timing;
  std::string digest;  // OK replies to kInfer: the first 16 digits of the model's
  // Reply to kModels / kHealth only:
  std::vector<ModelDescription> models;
  bool ready = false;
  std::vector<ServiceHealth> services;
  uint64_t max_frame_bytes = 0;    // largest tensor that the server takes; 0: it does not say
  uint64_t max_message_bytes = 0;  // largest message, header and tensors together
  std::string lease;               // path of the socket that leases regions; empty: there is none
  friend bool operator==(const Reply&, const Reply&) = default;
};

// What a decoder found wrong: `field` is a path such as "inputs[1].dtype" (or "header" for bytes that are no msgpack
// map). `id` is the query id where it could still be read, so that the error can be answered; has_id tells.
struct DecodeError {
  std::string field;
  std::string message;
  bool has_id = false;
  uint64_t id = 0;
};

// Encoders replace the content of *out (capacity is kept). They trust their argument: names and counts beyond the
// limits above make a header that the decoder refuses. A status that is local to one process goes out as INTERNAL.
void EncodeRequest(const Request& request, std::string* out);
void EncodeReply(const Reply& reply, std::string* out);

// Decoders never throw and never read outside `bytes`; *out is overwritten (capacity is kept) and unspecified on error.
// Values are validated in form (types, limits), not against a model: that is admission's part.
tl::expected<void, DecodeError> DecodeRequest(std::span<const std::byte> bytes, Request* out);
tl::expected<void, DecodeError> DecodeReply(std::span<const std::byte> bytes, Reply* out);

}  // namespace abacus::protocol

#endif  // ABACUS_CLIENT_PROTOCOL_H_
