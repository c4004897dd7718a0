#include "tests/predictor/train/synthetic_profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

namespace abacus {
namespace {

constexpr uint32_t kPieces = 6;  // of constant demand, in each model
constexpr uint32_t kCuts = 64;

// A stretch of a range that demands the same throughout. Demands are shares of the GPU's.
struct Piece {
  double solo_us = 0;
  double compute = 0;
  double memory = 0;
};

struct Law {
  // [model][piece], at a large batch.
  std::vector<std::vector<double>> compute;
  std::vector<std::vector<double>> memory;
  std::vector<double> half_batch;          // at which a model demands half of that
  std::vector<std::vector<double>> clash;  // [model][model]
};

std::vector<Piece> PiecesOf(const Law& law, const ProfileData& profile, const ProfiledRange& range) {
  const BucketProfile& bucket = profile.models[range.model].buckets[range.bucket];
  const double load = static_cast<double>(bucket.batch * std::max<int64_t>(bucket.sequence, 64)) / 64;
  const double saturation = load / (load + law.half_batch[range.model]);
  std::vector<Piece> pieces;
  for (uint32_t p = 0; p < kPieces; ++p) {
    const auto at = [&](uint32_t piece) { return piece * bucket.operators / kPieces; };
    const uint32_t first = std::max(range.first, at(p)), last = std::min(range.last, at(p + 1));
    if (first >= last) continue;
    pieces.push_back({bucket.PrefixUs(last) - bucket.PrefixUs(first), saturation * law.compute[range.model][p],
                      (0.3 + 0.7 * saturation) * law.memory[range.model][p]});
  }
  return pieces;
}

double TimeOf(const Law& law, const ProfileData& profile, const std::vector<ProfiledRange>& ranges) {
  struct Running {
    uint32_t model = 0;
    std::vector<Piece> pieces;
    size_t next = 0;
  };
  std::vector<Running> running;
  for (const ProfiledRange& range : ranges) running.push_back({range.model, PiecesOf(law, profile, range), 0});
  double time_us = 0;
  while (!running.empty()) {
    double compute = 0, memory = 0;
    for (const Running& r : running) {
      compute += r.pieces[r.next].compute;
      memory += r.pieces[r.next].memory;
    }
    std::vector<double> slowdowns;
    double step_us = std::numeric_limits<double>::infinity();
    for (const Running& r : running) {
      double clash = 0;
      for (const Running& other : running) clash += &other == &r ? 0 : law.clash[r.model][other.model];
      slowdowns.push_back(std::max({1.0, compute, memory}) * (1 + clash * std::min(compute, memory)));
      step_us = std::min(step_us, r.pieces[r.next].solo_us * slowdowns.back());
    }
    time_us += step_us;
    for (size_t i = 0; i < running.size(); ++i) {
      double& left_us = running[i].pieces[running[i].next].solo_us;
      left_us -= step_us / slowdowns[i];
      if (left_us < 1e-9) ++running[i].next;
    }
    std::erase_if(running, [](const Running& r) { return r.next == r.pieces.size(); });
  }
  return time_us;
}

}  // namespace

ProfileData MakeSyntheticProfile(const SyntheticOptions& options) {
  std::mt19937_64 random(options.seed);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  const auto below = [&](size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); };

  ProfileData profile;
  profile.device = "synthetic";
  profile.driver = "1";
  profile.libraries = "none";
  profile.seed = options.seed;
  Law law;
  for (uint32_t m = 0; m < options.models; ++m) {
    ModelProfile model;
    model.name = "model" + std::to_string(m);
    const auto operators = static_cast<uint32_t>(uniform(90, 400));
    const double operator_us = uniform(4, 8);
    std::vector<double> weights(operators);
    for (double& weight : weights) weight = std::exp(uniform(-1, 1));
    const bool sequences = m + 1 == options.models && !options.last_sequences.empty();
    for (const int64_t batch : options.batches) {
      for (const int64_t sequence : sequences ? options.last_sequences : std::vector<int64_t>{0}) {
        BucketProfile bucket;
        bucket.batch = batch;
        bucket.sequence = sequence;
        bucket.operators = operators;
        const double load = static_cast<double>(batch * std::max<int64_t>(sequence, 64)) / 64;
        double us = 0;
        uint32_t done = 0;
        for (uint32_t cut = 0; cut <= kCuts; ++cut) {
          const uint32_t op = cut * operators / kCuts;
          for (; done < op; ++done) us += operator_us * weights[done] * (1 + 0.25 * load);
          bucket.operators_at.push_back(op);
          bucket.us.push_back(us);
        }
        model.buckets.push_back(std::move(bucket));
      }
    }
    profile.models.push_back(std::move(model));
    std::vector<double>&compute = law.compute.emplace_back(), &memory = law.memory.emplace_back();
    for (uint32_t p = 0; p < kPieces; ++p) {
      compute.push_back(uniform(0.4, 1));
      memory.push_back(uniform(0.2, 0.9));
    }
    law.half_batch.push_back(uniform(0.5, 4));
    std::vector<double>& clash = law.clash.emplace_back();
    for (uint32_t other = 0; other < options.models; ++other) clash.push_back(uniform(0, 0.15));
  }

  std::normal_distribution<double> noise(0, options.noise);
  uint64_t index = 0;
  for (size_t size = 1; size <= options.groups.size(); ++size) {
    for (uint32_t i = 0; i < options.groups[size - 1]; ++i) {
      std::vector<uint32_t> models(options.models);
      std::iota(models.begin(), models.end(), 0u);
      GroupSample sample;
      sample.index = index++;
      for (size_t k = 0; k < size; ++k) {
        std::swap(models[k], models[k + below(models.size() - k)]);
        const auto bucket = static_cast<uint32_t>(below(profile.models[models[k]].buckets.size()));
        const std::vector<uint32_t>& cuts = profile.models[models[k]].buckets[bucket].operators_at;
        size_t first = uniform(0, 1) < 0.3 ? 0 : below(kCuts);
        size_t last = uniform(0, 1) < 0.3 ? kCuts : below(kCuts + 1);
        if (first > last) std::swap(first, last);
        if (first == last) last = first + 1;
        sample.ranges.push_back({models[k], bucket, cuts[first], cuts[last]});
      }
      sample.us = TimeOf(law, profile, sample.ranges) * (1 + noise(random));
      sample.spread = std::abs(noise(random));
      sample.repetitions = 3;
      profile.groups.push_back(std::move(sample));
    }
  }
  return profile;
}

void WriteProfile(const ProfileData& profile, const std::filesystem::path& path) {
  Result<ProfileWriter> writer = ProfileWriter::Create(path, profile);
  ASSERT_TRUE(writer) << writer.error().message();
  for (uint32_t m = 0; m < profile.models.size(); ++m) {
    for (uint32_t b = 0; b < profile.models[m].buckets.size(); ++b) {
      const BucketProfile& bucket = profile.models[m].buckets[b];
      if (bucket.measured()) {
        ASSERT_TRUE(writer->Solo(m, b, bucket).ok());
      }
    }
  }
  for (const GroupSample& group : profile.groups) ASSERT_TRUE(writer->Group(group).ok());
}

}  // namespace abacus
