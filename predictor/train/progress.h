// StageProgress: how far the stages of a training run are. One line that changes on a terminal, else a line every few
// seconds. Thread rule: any thread.
#ifndef ABACUS_PREDICTOR_TRAIN_PROGRESS_H_
#define ABACUS_PREDICTOR_TRAIN_PROGRESS_H_

#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>

namespace abacus {

class StageProgress {
 public:
  // `work`: of all stages together, in a unit of the caller's; the time left follows from it.
  StageProgress(std::FILE* file, double work, uint32_t stages);

  // `done`: work of `stage` so far.
  void Update(const std::string& stage, double done, std::string text);
  // `what`: a line of its own, for good.
  void Finish(const std::string& stage, double done, const std::string& what);
  // A finished stage of an earlier run: it counts as done and says nothing about speed.
  void Skip(double work);
  // Ends the changing line.
  void End();

 private:
  std::string Line(uint64_t now_ns) const;
  void Clear();

  std::FILE* const file_;
  const bool terminal_;
  const uint64_t start_ns_;
  std::mutex mutex_;
  double work_;          // still to be done when this run began
  double finished_ = 0;  // by stages that are over
  uint32_t stages_done_ = 0;
  uint32_t stages_;
  uint64_t printed_ns_ = 0;
  bool line_open_ = false;
  struct Running {
    double done = 0;
    std::string text;
  };
  std::map<std::string, Running> running_;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_PROGRESS_H_
