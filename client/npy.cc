#include "client/npy.h"

#include <utility>

#include "base/file.h"
#include "base/npy.h"

namespace abacus {
namespace {

Result<Tensor> Named(Result<NpyArray> array, std::string name) {
  if (!array) return Error(array.error());
  return Tensor::Own(std::move(name), array->dtype, array->shape, std::move(array->bytes));
}

}  // namespace

Result<Tensor> ParseNpy(std::span<const std::byte> content, const std::string& source, std::string name) {
  return Named(ParseNpyArray(content, source), std::move(name));
}

Result<Tensor> ReadNpy(const std::filesystem::path& path, std::string name) {
  return Named(ReadNpyArray(path), std::move(name));
}

Status WriteNpy(const std::filesystem::path& path, const Tensor& tensor) {
  return WriteNpyArray(path, tensor.dtype, tensor.shape, tensor.bytes);
}

Result<Tensor> ReadRaw(const std::filesystem::path& path, std::string name, DType dtype, const Shape& shape) {
  const Result<std::string> content = ReadWholeFile(path);
  if (!content) return Error(content.error());
  const auto expected = TensorBytes(dtype, shape);
  if (content->size() != expected) {
    return Error(StatusCode::kInvalidArgument, path.string() + ": a " + std::string(DTypeName(dtype)) +
                                                   " tensor of shape " + shape.ToString() + " takes " +
                                                   (expected ? std::to_string(*expected) : "too many") +
                                                   " bytes but the file has " + std::to_string(content->size()));
  }
  const auto bytes = std::as_bytes(std::span(*content));
  return Tensor::Own(std::move(name), dtype, shape, {bytes.begin(), bytes.end()});
}

}  // namespace abacus
