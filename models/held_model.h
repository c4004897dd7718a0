// The identity of a model, and how its files reach a worker unchanged.
//
// The controller opens description, model file and operator libraries once, when it starts, and takes a digest over all
// of them. A worker gets the very files that were admitted, as descriptors, and the digest. So a model that is exported
// again under a running controller (new files under the old names) changes nothing before the controller is started
// again, not even for a worker that is restarted. Description and libraries are handed over as sealed copies in memory,
// which nobody can change. The model file is not copied: one that was changed in place no longer has the digest, and a
// worker refuses it.
//
// Thread rule: HeldModel is immutable; Open may run in any thread. TakeHeldModel: once in a process, the worker's.
// Ownership: HeldModel closes what it holds; what a worker took over stays open until it exits.
// Errors: NOT_FOUND a file is missing; INVALID_ARGUMENT a file is not what was exported or admitted; UNAVAILABLE a file
// cannot be read, or the system has no more descriptors or memory. They name the file and say what to do.
#ifndef ABACUS_MODELS_HELD_MODEL_H_
#define ABACUS_MODELS_HELD_MODEL_H_

#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"

namespace abacus {

// Descriptors of a worker that was handed its model: description, model file, libraries, from here on in this order.
inline constexpr int kFirstHeldDescriptor = 10;

class HeldModel {
 public:
  // `need_file`: false for workers that run no model; of the files only the description is held then.
  static Result<std::shared_ptr<const HeldModel>> Open(const ModelSpec& spec, bool need_file);
  ~HeldModel();
  HeldModel(const HeldModel&) = delete;
  HeldModel& operator=(const HeldModel&) = delete;

  // 64 hex digits, over everything that is held.
  const std::string& digest() const { return digest_; }
  // To be handed to a worker as kFirstHeldDescriptor and the following.
  const std::vector<int>& descriptors() const { return descriptors_; }

 private:
  HeldModel() = default;

  std::string digest_;
  std::vector<int> descriptors_;
};
using HeldModelPtr = std::shared_ptr<const HeldModel>;

// What a worker is to load: a model that was handed over, or one that it opens by name.
class TakenModel {
 public:
  explicit TakenModel(ModelSpec spec) : spec_(std::move(spec)) {}
  const ModelSpec& spec() const { return spec_; }  // its open_paths lead to the descriptors
  // INVALID_ARGUMENT when a model file that was handed over was changed since then: to be asked once it is loaded.
  Status CheckUnchanged() const;

 private:
  friend Result<TakenModel> TakeHeldModel(const std::filesystem::path& toml_path, const std::string& digest,
                                          bool need_file);
  ModelSpec spec_;
  std::string digest_;
  std::vector<int> descriptors_;
  struct stat before_ {};  // of the model file, where there is one
};

// Takes over what the controller holds. `toml_path` names the description in messages and anchors relative paths;
// `digest` and `need_file` are those of the HeldModel.
Result<TakenModel> TakeHeldModel(const std::filesystem::path& toml_path, const std::string& digest, bool need_file);

}  // namespace abacus

#endif  // ABACUS_MODELS_HELD_MODEL_H_
