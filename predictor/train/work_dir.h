// WorkDir: the finished stages of a training run, kept so that an interrupted one can go on.
//
// One JSON file per stage, written under another name first, with the key of the run: what the key does not fit (other
// data, other options) counts as not there. Thread rule: Save and Load from any thread, for different stages.
#ifndef ABACUS_PREDICTOR_TRAIN_WORK_DIR_H_
#define ABACUS_PREDICTOR_TRAIN_WORK_DIR_H_

#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"
#include "predictor/train/regression.h"

namespace abacus {

class WorkDir {
 public:
  // Makes the folder where it is missing. `fresh`: forgets the stages in it.
  static Result<WorkDir> Open(std::filesystem::path path, std::string key, bool fresh);

  const std::filesystem::path& path() const { return path_; }
  std::optional<Fit> Load(const std::string& stage) const;
  Status Save(const std::string& stage, const Fit& fit) const;
  void Remove() const;

 private:
  WorkDir(std::filesystem::path path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}
  std::filesystem::path FileOf(const std::string& stage) const { return path_ / (stage + ".json"); }

  std::filesystem::path path_;
  std::string key_;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_WORK_DIR_H_
