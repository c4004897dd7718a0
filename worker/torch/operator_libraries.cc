#include "worker/torch/operator_libraries.h"

#include <c10/util/StringUtil.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "base/digest.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStandIn = "libabacus_no_python.so";
constexpr const char* kCpuHalf = "libtorch_cpu.so";

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

std::string LinkerError() {
  const char* reason = dlerror();
  return reason != nullptr ? reason : "unknown reason";
}

// Its symbols are for all: libraries look parts of each other up by name.
bool Open(const fs::path& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr; }

// The folder that the running LibTorch was loaded from; empty if it cannot be told.
fs::path LibTorchFolder() {
  void* const handle = dlopen(kCpuHalf, RTLD_NOW | RTLD_NOLOAD);
  if (handle == nullptr) return {};
  link_map* map = nullptr;
  const bool found = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0;
  const fs::path folder = found ? fs::path(map->l_name).parent_path() : fs::path();
  dlclose(handle);
  return folder;
}

// Opens what libraries built for Python name among what they need. What does not open is missed by name later, if at
// all.
void OpenTheirNeeds() {
  std::error_code error;
  const fs::path bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* neighbour : {".", "../bin", "../lib"}) {
    if (Open((bin / neighbour / kStandIn).lexically_normal())) break;
  }
  const fs::path torch = LibTorchFolder();
  for (const char* library : {"libc10_cuda.so", "libtorch_cuda.so", "libtorch.so"}) {
    if (fs::exists(torch / library, error)) (void)Open(torch / library);
  }
}

// The path itself where it still leads to the open file, so that a library finds its neighbours; else the open file.
fs::path PathOf(const OperatorLibrary& library, const fs::path& open_path) {
  struct stat named {};
  struct stat opened {};
  const bool same = stat(library.file.c_str(), &named) == 0 && stat(open_path.c_str(), &opened) == 0 &&
                    named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
  return same ? library.file : open_path;
}

Status OpenLibrary(const ModelSpec& spec, const OperatorLibrary& library) {
  const std::string context = c10::str("model \"", spec.name, "\": operator library ", library.file.string(), ": ");
  const fs::path open_path = library.open_path.empty() ? library.file : library.open_path;
  const OpenFile file(open_path);
  if (file.fd() < 0) {
    return {StatusCode::kNotFound,
            c10::str(context, "cannot be opened: ", std::generic_category().message(errno),
                     "; export the model again with --library, or correct [[libraries]] in ", spec.toml_path.string())};
  }
  const Result<std::string> digest = FileSha256(file.fd());
  if (!digest) return digest.error();
  if (*digest != library.sha256) {
    return {StatusCode::kInvalidArgument,
            c10::str(context, "is not the one that the model was exported with (its SHA-256 is ", *digest, ", ",
                     spec.toml_path.string(), " says ", library.sha256, "); export the model again with --library")};
  }
  if (Open(PathOf(library, open_path))) return Status::Ok();
  return {StatusCode::kInvalidArgument,
          c10::str(context, "does not load: ", LinkerError(),
                   ". A worker has no Python: build the library without it "
                   "(torch.utils.cpp_extension.load(..., is_python_module=False)), for this version of LibTorch")};
}

}  // namespace

Status OpenOperatorLibraries(const ModelSpec& spec) {
  if (spec.libraries.empty()) return Status::Ok();
  OpenTheirNeeds();
  for (const OperatorLibrary& library : spec.libraries) ABACUS_RETURN_IF_ERROR(OpenLibrary(spec, library));
  return Status::Ok();
}

Status OpenTorchvision() {
  const fs::path library = LibTorchFolder().parent_path().parent_path() / "torchvision" / "_C.so";
  std::error_code error;
  if (!fs::exists(library, error)) {
    return {StatusCode::kNotFound,
            c10::str("torchvision's operators are not installed beside LibTorch (there is no ", library.string(),
                     "); install the torchvision that belongs to this LibTorch there")};
  }
  OpenTheirNeeds();
  if (Open(library)) return Status::Ok();
  return {StatusCode::kInvalidArgument, c10::str("torchvision's operators do not load: ", LinkerError(),
                                                 "; install the torchvision that belongs to this LibTorch")};
}

std::string_view UnknownOperator(std::string_view error) {
  for (const std::string_view intro : {"Unknown builtin op: ", "Unknown type name '__torch__.torch.classes."}) {
    const size_t at = error.find(intro);
    if (at == std::string_view::npos) continue;
    std::string_view name = error.substr(at + intro.size());
    name = name.substr(0, name.find_first_of(" '\n"));
    if (name.ends_with('.')) name.remove_suffix(1);  // of the sentence
    return name;
  }
  return {};
}

}  // namespace abacus
