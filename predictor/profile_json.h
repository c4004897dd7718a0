// JSON shared by the profile and the predictor file: the subject (device, models, solo times), and checked reads.
// Thread rule: pure functions. Errors: a message that names the key; callers add file and line.
#ifndef ABACUS_PREDICTOR_PROFILE_JSON_H_
#define ABACUS_PREDICTOR_PROFILE_JSON_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictor/profile_data.h"

namespace abacus::profile_json {

using nlohmann::json;

inline constexpr size_t kMaxModels = 64;    // the bits of a set of models
inline constexpr size_t kMaxBuckets = 256;  // far above shm/layout.h's limit; bounds what a hostile file can ask for
inline constexpr uint32_t kMaxOperators = 1u << 20;
inline constexpr double kMaxUs = 1e10;  // some hours; keeps sums and floats of it finite

// Reads keys of one object; the first thing wrong is kept.
class ObjectReader {
 public:
  ObjectReader(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Fail("must be an object");
  }

  void Text(const char* key, std::string* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_string() || value->get_ref<const std::string&>().size() > 1000) return Fail(key, "a short text");
    *out = value->get<std::string>();
  }
  template <class T>
  void Integer(const char* key, uint64_t max, T* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number_unsigned() || value->get<uint64_t>() > max) {
      return Fail(key, "a whole number from 0 to " + std::to_string(max));
    }
    *out = static_cast<T>(value->get<uint64_t>());
  }
  void Number(const char* key, double* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number() || !std::isfinite(value->get<double>())) return Fail(key, "a finite number");
    *out = value->get<double>();
  }
  template <class T>
  void Numbers(const char* key, size_t max_size, std::vector<T>* out) {
    const json* value = Array(key, max_size);
    if (value == nullptr) return;
    out->clear();
    out->reserve(value->size());
    for (const json& element : *value) {
      if (std::is_integral_v<T> ? !element.is_number_unsigned() || element.get<uint64_t>() > kMaxOperators
                                : !element.is_number() || !std::isfinite(element.get<T>())) {
        return Fail(key, std::is_integral_v<T> ? "whole numbers" : "finite numbers");
      }
      out->push_back(element.get<T>());
    }
  }
  // The array under `key`, or nullptr after noting what is wrong.
  const json* Array(const char* key, size_t max_size) {
    const json* value = Find(key);
    if (value == nullptr) return nullptr;
    if (!value->is_array() || value->size() > max_size) {
      Fail(key, "an array of at most " + std::to_string(max_size));
      return nullptr;
    }
    return value;
  }
  void Check(const Status& status) {
    if (error_.ok() && !status.ok()) error_ = status;
  }
  void Fail(const std::string& what) {
    if (error_.ok()) error_ = Status(StatusCode::kInvalidArgument, where_ + ": " + what);
  }
  const Status& status() const { return error_; }

 private:
  const json* Find(const char* key) {
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(key);
    if (it == object_.end()) {
      Fail(std::string("\"") + key + "\" is missing");
      return nullptr;
    }
    return &*it;
  }
  void Fail(const char* key, const std::string& what) { Fail(std::string("\"") + key + "\" must be " + what); }

  const json& object_;
  const std::string where_;
  Status error_;
};

json SoloToJson(const BucketProfile& bucket);
// Reads and checks "operators" and "us": ascending from 0 to the bucket's operators, times ascending from 0 or more.
Status SoloFromJson(const json& value, const std::string& where, BucketProfile* bucket);

// Device, driver, libraries, seed, models; `with_solo`: with their solo times.
json SubjectToJson(const ProfileData& data, bool with_solo);
Status SubjectFromJson(const json& value, const std::string& where, bool with_solo, ProfileData* data);

}  // namespace abacus::profile_json

#endif  // ABACUS_PREDICTOR_PROFILE_JSON_H_
