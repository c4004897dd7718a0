// NumPy's .npy files (format versions 1 to 3).
//
// Reading accepts what a tensor can be: little-endian, C-ordered arrays of the types of base/types.h. Everything else
// (object arrays, Fortran order, big endian, truncated or trailing bytes) is an error that names the file and the
// reason; nothing is allocated beyond the file's own size. Writing replaces the file.
//
// Thread rule: free functions without state.
#ifndef ABACUS_BASE_NPY_H_
#define ABACUS_BASE_NPY_H_

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace abacus {

struct NpyArray {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<std::byte> bytes;
};

Result<NpyArray> ReadNpyArray(const std::filesystem::path& path);
// The same from the content of a file; `source` names it in errors.
Result<NpyArray> ParseNpyArray(std::span<const std::byte> content, const std::string& source);

// NumPy has no bfloat16: such arrays are written as float32, which holds every value of them. `bytes` are those of an
// array of this type and shape.
Status WriteNpyArray(const std::filesystem::path& path, DType dtype, const Shape& dims,
                     std::span<const std::byte> bytes);

}  // namespace abacus

#endif  // ABACUS_BASE_NPY_H_
