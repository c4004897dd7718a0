// Job: one or more queries of one service, executed as one batch in one bucket. What policies schedule.
#ifndef ABACUS_CONTROLLER_JOB_H_
#define ABACUS_CONTROLLER_JOB_H_

#include <boost/container/small_vector.hpp>
#include <cstdint>
#include <span>
#include <string>

#include "shm/status.h"

namespace abacus {

struct Job {
  uint64_t id = 0;
  uint32_t service = 0;
  uint32_t bucket = 0;
  boost::container::small_vector<uint32_t, 4> queries;  // slots of the query table
  uint64_t arrival_ns = 0;                              // of its oldest query
  uint64_t deadline_ns = 0;                             // of its most urgent query
  uint64_t block_offset = 0;
  uint64_t block_bytes = 0;
  bool synthetic = false;

  uint32_t operators = 0;                // of the bucket, set when the job is queued
  std::span<const uint32_t> cuts;        // of the bucket: from 0 to `operators`
  uint32_t next_operator = 0;            // [0, next_operator) has run or was sent to run
  uint32_t in_flight = 0;                // ranges sent and not completed
  StatusCode failure = StatusCode::kOk;  // a range failed; the job ends with this once none is in flight
  std::string failure_text;
  uint64_t solo_ns = 0;  // predicted time of a whole pass alone; 0: unknown

  uint64_t first_sent_ns = 0;
  uint64_t executed_ns = 0;
  uint32_t rounds = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_JOB_H_
