// ProfileData: what profiling measured on one device, and the file that holds it.
//
// The file is JSON Lines, written as the measurements come, so that an interrupted run loses at most the line it was
// writing. docs/predictor.md describes the lines:
//
//   {"abacus_profile":1,"device":...,"driver":...,"libraries":...,"seed":...,"models":[{"name":...,
//       "structure":...,"buckets":[{"batch":4,"sequence":0,"operators":95},...]},...]}    first line
//   {"solo":{"model":0,"bucket":2,"operators":[0,2,..,95],"us":[0,11.2,..,525.1]}}        time of each prefix, alone
//   {"group":{"index":17,"ranges":[[0,2,0,95],[3,1,12,40]],"us":812.4,"spread":0.004,"repetitions":3}}
//   {"skip":{"index":18,"why":"..."}}
//   {"clock":{"t_s":12.3,"sm_mhz":1980,"memory_mhz":2619,"temperature_c":41}}
//
// Units: microseconds. Errors name file and line. Thread rule: none; plain values.
#ifndef ABACUS_PREDICTOR_PROFILE_DATA_H_
#define ABACUS_PREDICTOR_PROFILE_DATA_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace abacus {

// Solo times of one (model, bucket): us[i] is the time of a round with operators [0, operators_at[i]) alone, the copies
// of the tensors included. operators_at ascends from 0 to `operators`; us[0], which no range has, is the cost of a
// round itself. So the solo time of [first, last) is PrefixUs(last) - PrefixUs(first) + us[0]. Both are empty until
// measured.
struct BucketProfile {
  int64_t batch = 1;
  int64_t sequence = 0;
  uint32_t operators = 0;
  std::vector<uint32_t> operators_at;
  std::vector<double> us;

  bool measured() const { return us.size() >= 2; }
  double whole_us() const { return us.empty() ? 0 : us.back(); }
  // Solo time of the prefix [0, op), linear between the measured points. Requires measured().
  double PrefixUs(uint32_t op) const;
};

struct ModelProfile {
  std::string name;
  std::vector<BucketProfile> buckets;
  std::string structure{};  // digest of operators, shapes and types, without weights; empty: unknown
};

// Operators [first, last) of ProfileData::models[model].buckets[bucket].
struct ProfiledRange {
  uint32_t model = 0;
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t last = 0;
};

struct GroupSample {
  uint64_t index = 0;                 // in the sampling sequence
  std::vector<ProfiledRange> ranges;  // of different models
  double us = 0;                      // median over the repetitions: start of the round until its last completion
  double spread = 0;                  // (largest - smallest) / median
  uint32_t repetitions = 0;
};

struct ClockSample {
  double t_s = 0;  // since profiling began
  double sm_mhz = 0;
  double memory_mhz = 0;
  double temperature_c = 0;
};

struct ProfileData {
  std::string device;
  std::string driver;
  std::string libraries;
  uint64_t seed = 0;
  std::vector<ModelProfile> models;
  std::vector<GroupSample> groups;
  std::vector<ClockSample> clocks;
  uint64_t skipped = 0;               // groups given up because a worker died
  std::vector<std::string> warnings;  // lines that were left out, and why

  uint64_t next_index() const;  // one after the largest index of a group or skip
  uint64_t last_skipped_index = 0;
};

// Reads a whole file. A last line without its end is left out with a warning, as are groups with a time that is not a
// positive number or ranges that their models do not have; anything else that is not as above is an error.
Result<ProfileData> ReadProfile(const std::filesystem::path& path);
// The same from text; `source` names it in messages.
Result<ProfileData> ParseProfile(std::string_view text, const std::string& source);

// Appends to a profile. One line per call, flushed before the call returns.
class ProfileWriter {
 public:
  // Starts a new file with the first line for `data` (models, device; not its measurements).
  static Result<ProfileWriter> Create(const std::filesystem::path& path, const ProfileData& data);
  // Goes on with a file that ReadProfile has read; cuts off an incomplete last line first.
  static Result<ProfileWriter> Append(const std::filesystem::path& path);

  Status Solo(uint32_t model, uint32_t bucket, const BucketProfile& measured);
  Status Group(const GroupSample& sample);
  Status Skip(uint64_t index, std::string_view why);
  Status Clock(const ClockSample& clock);

 private:
  ProfileWriter(std::filesystem::path path, std::ofstream file) : path_(std::move(path)), file_(std::move(file)) {}
  Status Line(const std::string& line);

  std::filesystem::path path_;
  std::ofstream file_;
};

// Why a profile of `a` cannot go on on, or be used for, `b`: device, libraries, models, their structure where both have
// it, buckets, numbers of operators. OK when they agree. Measurements are not compared.
Status SameSubject(const ProfileData& a, const ProfileData& b);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_PROFILE_DATA_H_
