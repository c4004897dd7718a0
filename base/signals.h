// Signals as something to poll for, and where the running program lies.
// Thread rule: BlockSignals on the main thread, before others exist, so that all inherit the mask.
#ifndef ABACUS_BASE_SIGNALS_H_
#define ABACUS_BASE_SIGNALS_H_

#include <initializer_list>

namespace abacus {

// Blocks SIGTERM, SIGINT and `others` in this thread and those it starts, and ignores SIGPIPE; returns a signalfd that
// becomes readable for one.
int BlockSignals(std::initializer_list<int> others = {});
// Takes one signal from it; 0 when there is none.
int ConsumeSignal(int fd);

}  // namespace abacus

#endif  // ABACUS_BASE_SIGNALS_H_
