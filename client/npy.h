// Tensors in NumPy's .npy files (base/npy.h says which are read), and raw files of tensor bytes. Errors name the file
// and the reason. Writing replaces the file.
//
// Thread rule: free functions without state.
#ifndef ABACUS_CLIENT_NPY_H_
#define ABACUS_CLIENT_NPY_H_

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "base/status.h"
#include "client/tensor.h"

namespace abacus {

// The tensor gets `name`.
Result<Tensor> ReadNpy(const std::filesystem::path& path, std::string name);
// The same from the content of a file; `source` names it in errors.
Result<Tensor> ParseNpy(std::span<const std::byte> content, const std::string& source, std::string name);

// NumPy has no bfloat16: such tensors are written as float32, which holds every value of them.
Status WriteNpy(const std::filesystem::path& path, const Tensor& tensor);

// A file that holds exactly the bytes of such a tensor.
Result<Tensor> ReadRaw(const std::filesystem::path& path, std::string name, DType dtype, const Shape& shape);

}  // namespace abacus

#endif  // ABACUS_CLIENT_NPY_H_
