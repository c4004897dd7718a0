#include "models/held_model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/digest.h"
#include "base/file.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

std::string DescriptorPath(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

Status Failed(StatusCode code, const fs::path& file, const std::string& what) {
  return {code, file.string() + ": " + what};
}

// A copy of `content` in memory that can be read and never changed.
Result<int> SealedCopy(const fs::path& file, std::string_view content) {
  const int fd = memfd_create(file.filename().c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  const auto failed = [&]() -> Result<int> {
    const int error = errno;
    if (fd >= 0) close(fd);
    return Error(Failed(StatusCode::kUnavailable, file, std::string("cannot be held: ") + std::strerror(error)));
  };
  if (fd < 0) return failed();
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return failed();
    content.remove_prefix(static_cast<size_t>(written));
  }
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) return failed();
  return fd;
}

Result<int> OpenModelFile(const fs::path& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return Error(Failed(StatusCode::kNotFound, file,
                        std::string("the model file cannot be opened (") + std::strerror(errno) +
                            "); export the model, or correct `file` in its description"));
  }
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Error(Failed(StatusCode::kInvalidArgument, file, "is not a file; a model file is one"));
  }
  return fd;
}

// The text of a description, or of another file that is small, from its first byte on.
Result<std::string> TextOf(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return Error(StatusCode::kUnavailable, std::strerror(errno));
  std::string text(static_cast<size_t>(info.st_size), '\0');
  for (size_t have = 0; have < text.size();) {
    const ssize_t got = pread(fd, text.data() + have, text.size() - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Error(StatusCode::kUnavailable, got < 0 ? std::strerror(errno) : "it is cut off");
    have += static_cast<size_t>(got);
  }
  return text;
}

// Over the description, and the files of `spec` that follow it, which lie at descriptors[1] and on.
Result<std::string> DigestOf(const ModelSpec& spec, const std::vector<int>& descriptors) {
  std::string parts = Sha256Hex(spec.text);
  for (size_t i = 1; i < descriptors.size(); ++i) {
    const Result<std::string> part = FileSha256(descriptors[i]);
    const fs::path& file = i == 1 ? spec.file : spec.libraries[i - 2].file;
    if (!part) return Error(part.error().WithContext(file.string()));
    parts += *part;
  }
  return Sha256Hex(parts);
}

Status FileChanged(const ModelSpec& spec) {
  return Failed(StatusCode::kInvalidArgument, spec.file,
                "the model file was changed in place after the controller had opened it. Restart the controller to "
                "serve what it is now. Replace model files by renaming new ones over them, as the exporter does: then "
                "the old one is served until the restart");
}

bool SameFile(const struct stat& a, const struct stat& b) {
  const auto same_time = [](const timespec& x, const timespec& y) {
    return x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec;
  };
  return a.st_size == b.st_size && same_time(a.st_mtim, b.st_mtim) && same_time(a.st_ctim, b.st_ctim);
}

}  // namespace

HeldModel::~HeldModel() {
  for (const int fd : descriptors_) close(fd);
}

Result<HeldModelPtr> HeldModel::Open(const ModelSpec& spec, bool need_file) {
  const std::shared_ptr<HeldModel> held(new HeldModel);
  const auto hold = [&held](const Result<int>& fd) {
    if (!fd) return fd.error();
    held->descriptors_.push_back(*fd);
    return Status::Ok();
  };
  ABACUS_RETURN_IF_ERROR(hold(SealedCopy(spec.toml_path, spec.text)));
  if (need_file) {
    ABACUS_RETURN_IF_ERROR(hold(OpenModelFile(spec.file)));
    for (const OperatorLibrary& library : spec.libraries) {
      const Result<std::string> content = ReadWholeFile(library.file);
      if (!content) return Error(content.error().WithContext("the operator library of " + spec.toml_path.string()));
      if (Sha256Hex(*content) != library.sha256) {
        return Error(Failed(StatusCode::kInvalidArgument, library.file,
                            "is not the operator library that " + spec.toml_path.string() +
                                " was exported with (sha256 differs); export the model again"));
      }
      ABACUS_RETURN_IF_ERROR(hold(SealedCopy(library.file, *content)));
    }
  }
  Result<std::string> digest = DigestOf(spec, held->descriptors_);
  if (!digest) return Error(digest.error());
  held->digest_ = std::move(*digest);
  return HeldModelPtr(held);
}

Status TakenModel::CheckUnchanged() const {
  if (descriptors_.size() < 2) return Status::Ok();
  struct stat now {};
  if (fstat(descriptors_[1], &now) != 0) return Failed(StatusCode::kUnavailable, spec_.file, std::strerror(errno));
  if (SameFile(before_, now)) return Status::Ok();
  // Not every change is one of the content: another file that is renamed over this one takes a link from it.
  const Result<std::string> found = DigestOf(spec_, descriptors_);
  if (!found) return found.error();
  return *found == digest_ ? Status::Ok() : FileChanged(spec_);
}

Result<TakenModel> TakeHeldModel(const fs::path& toml_path, const std::string& digest, bool need_file) {
  const Result<std::string> text = TextOf(kFirstHeldDescriptor);
  if (!text) return Error(text.error().WithContext("the description that the controller handed over"));
  Result<ModelSpec> spec = ParseModelSpec(*text, toml_path);
  if (!spec) return Error(spec.error());
  TakenModel taken(std::move(*spec));
  taken.digest_ = digest;
  std::vector<int>& descriptors = taken.descriptors_;
  descriptors.push_back(kFirstHeldDescriptor);
  const auto take = [&descriptors] {
    descriptors.push_back(descriptors.back() + 1);
    return DescriptorPath(descriptors.back());
  };
  if (need_file) {
    taken.spec_.open_path = take();
    for (OperatorLibrary& library : taken.spec_.libraries) library.open_path = take();
    // Before the digest: what changes later is seen by CheckUnchanged.
    if (fstat(descriptors[1], &taken.before_) != 0) {
      return Error(Failed(StatusCode::kUnavailable, taken.spec_.file, std::strerror(errno)));
    }
  }
  // None of ours outlives this process in another program.
  for (const int fd : descriptors) fcntl(fd, F_SETFD, FD_CLOEXEC);
  const Result<std::string> found = DigestOf(taken.spec_, descriptors);
  if (!found) return Error(found.error());
  // The rest is sealed.
  if (*found != digest) return Error(FileChanged(taken.spec_));
  return taken;
}

}  // namespace abacus
