// Progress of long work on standard error: one line that is redrawn on a terminal, a line now and then elsewhere.
// Thread rule: one thread.
#ifndef ABACUS_PROFILER_PROGRESS_H_
#define ABACUS_PROFILER_PROGRESS_H_

#include <cstdint>
#include <string>

namespace abacus {

class Progress {
 public:
  Progress();
  ~Progress();
  // `share` of the work is done, 0 to 1. Draws at most a few times a second; the rest is dropped.
  void Show(const std::string& what, double share, const std::string& detail);
  // Ends the line, if one is drawn, so that other text can follow.
  void End();

 private:
  const bool terminal_;
  bool drawn_ = false;
  std::string what_;
  uint64_t began_ns_ = 0;
  double began_share_ = 0;
  uint64_t next_ns_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_PROFILER_PROGRESS_H_
