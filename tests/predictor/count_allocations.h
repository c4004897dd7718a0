// Counts what the program that links count_allocations.cc allocates.
#ifndef ABACUS_TESTS_PREDICTOR_COUNT_ALLOCATIONS_H_
#define ABACUS_TESTS_PREDICTOR_COUNT_ALLOCATIONS_H_

#include <cstdint>

namespace abacus::test {

uint64_t AllocationCount();  // calls of operator new since the start

}  // namespace abacus::test

#endif  // ABACUS_TESTS_PREDICTOR_COUNT_ALLOCATIONS_H_
