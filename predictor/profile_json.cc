#include "predictor/profile_json.h"

#include <algorithm>
#include <set>

namespace abacus::profile_json {

json SoloToJson(const BucketProfile& bucket) { return {{"operators", bucket.operators_at}, {"us", bucket.us}}; }

Status SoloFromJson(const json& value, const std::string& where, BucketProfile* bucket) {
  ObjectReader reader(value, where);
  BucketProfile solo;
  reader.Numbers("operators", kMaxOperators, &solo.operators_at);
  reader.Numbers("us", kMaxOperators, &solo.us);
  ABACUS_RETURN_IF_ERROR(reader.status());
  const std::vector<uint32_t>& at = solo.operators_at;
  if (at.size() < 2 || at.size() != solo.us.size() || at.front() != 0 || at.back() != bucket->operators ||
      std::adjacent_find(at.begin(), at.end(), std::greater_equal<>()) != at.end()) {
    reader.Fail("\"operators\" must ascend from 0 to " + std::to_string(bucket->operators) +
                ", one for each of \"us\"");
  } else if (solo.us.front() < 0 || solo.us.back() <= 0 || solo.us.back() > kMaxUs ||
             !std::is_sorted(solo.us.begin(), solo.us.end())) {
    reader.Fail("\"us\" must ascend from 0 or more to more than 0 and at most some hours");
  }
  ABACUS_RETURN_IF_ERROR(reader.status());
  bucket->operators_at = std::move(solo.operators_at);
  bucket->us = std::move(solo.us);
  return Status::Ok();
}

json SubjectToJson(const ProfileData& data, bool with_solo) {
  json models = json::array();
  for (const ModelProfile& model : data.models) {
    json buckets = json::array();
    for (const BucketProfile& bucket : model.buckets) {
      json entry = {{"batch", bucket.batch}, {"sequence", bucket.sequence}, {"operators", bucket.operators}};
      if (with_solo && bucket.measured()) entry["solo"] = SoloToJson(bucket);
      buckets.push_back(std::move(entry));
    }
    json object = {{"name", model.name}, {"buckets", std::move(buckets)}};
    if (!model.structure.empty()) object["structure"] = model.structure;
    models.push_back(std::move(object));
  }
  return {{"device", data.device},
          {"driver", data.driver},
          {"libraries", data.libraries},
          {"seed", data.seed},
          {"models", std::move(models)}};
}

Status SubjectFromJson(const json& value, const std::string& where, bool with_solo, ProfileData* data) {
  ObjectReader reader(value, where);
  reader.Text("device", &data->device);
  reader.Text("driver", &data->driver);
  reader.Text("libraries", &data->libraries);
  reader.Integer("seed", std::numeric_limits<uint64_t>::max(), &data->seed);
  const json* models = reader.Array("models", kMaxModels);
  ABACUS_RETURN_IF_ERROR(reader.status());
  std::set<std::string> names;
  for (const json& entry : *models) {
    ModelProfile model;
    const std::string model_where = where + ", model " + std::to_string(data->models.size());
    ObjectReader model_reader(entry, model_where);
    model_reader.Text("name", &model.name);
    if (entry.contains("structure")) model_reader.Text("structure", &model.structure);  // files before it are as good
    const json* buckets = model_reader.Array("buckets", kMaxBuckets);
    if (!names.insert(model.name).second) model_reader.Fail("the name \"" + model.name + "\" stands twice");
    ABACUS_RETURN_IF_ERROR(model_reader.status());
    for (const json& bucket_entry : *buckets) {
      BucketProfile bucket;
      const std::string bucket_where = model_where + ", bucket " + std::to_string(model.buckets.size());
      ObjectReader bucket_reader(bucket_entry, bucket_where);
      bucket_reader.Integer("batch", kMaxOperators, &bucket.batch);
      bucket_reader.Integer("sequence", kMaxOperators, &bucket.sequence);
      bucket_reader.Integer("operators", kMaxOperators, &bucket.operators);
      if (bucket.batch == 0 || bucket.operators == 0) bucket_reader.Fail("batch and operators must not be 0");
      if (with_solo && bucket_reader.status().ok() && bucket_entry.contains("solo")) {
        bucket_reader.Check(SoloFromJson(bucket_entry["solo"], bucket_where + ", solo", &bucket));
      }
      ABACUS_RETURN_IF_ERROR(bucket_reader.status());
      model.buckets.push_back(std::move(bucket));
    }
    data->models.push_back(std::move(model));
  }
  return Status::Ok();
}

}  // namespace abacus::profile_json
