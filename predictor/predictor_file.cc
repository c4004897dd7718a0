#include "predictor/predictor_file.h"

#include <algorithm>
#include <boost/crc.hpp>
#include <charconv>

#include "base/file.h"
#include "predictor/features.h"
#include "predictor/profile_json.h"

namespace abacus {
namespace {

using profile_json::json;
using profile_json::ObjectReader;

constexpr std::string_view kMagic = "abacus-predictor ";
constexpr size_t kMaxBytes = 256u << 20;
constexpr size_t kMaxWeights = 1u << 20;

std::string Crc32Text(std::string_view bytes) {
  boost::crc_32_type crc;
  crc.process_bytes(bytes.data(), bytes.size());
  char text[9];
  std::snprintf(text, sizeof(text), "%08x", crc.checksum());
  return text;
}

json LayerToJson(const MlpLayer& layer) {
  return {{"inputs", layer.inputs}, {"outputs", layer.outputs}, {"weights", layer.weights}, {"bias", layer.bias}};
}

Status ReadBody(const json& body, PredictorFile* file) {
  ObjectReader reader(body, "body");
  uint32_t features = 0;
  reader.Integer("features", 1u << 20, &features);
  reader.Integer("samples", uint64_t{1} << 53, &file->samples);
  reader.Number("mape", &file->mape);
  reader.Numbers("residuals", 1001, &file->residuals);
  if (!std::is_sorted(file->residuals.begin(), file->residuals.end())) reader.Fail("\"residuals\" must ascend");
  const json* layers = reader.Array("layers", 16);
  const json* trained = reader.Array("trained", 1u << 16);
  if (!body.contains("subject")) reader.Fail("\"subject\" is missing");
  ABACUS_RETURN_IF_ERROR(reader.status());
  if (features != kFeatureSchema) {
    return {StatusCode::kInvalidArgument, "it was trained with feature columns of version " + std::to_string(features) +
                                              ", this program has version " + std::to_string(kFeatureSchema) +
                                              "; train again"};
  }
  ABACUS_RETURN_IF_ERROR(profile_json::SubjectFromJson(body["subject"], "subject", /*with_solo=*/true, &file->subject));
  for (const json& entry : *layers) {
    MlpLayer layer;
    ObjectReader layer_reader(entry, "layer " + std::to_string(file->layers.size()));
    layer_reader.Integer("inputs", kMaxWeights, &layer.inputs);
    layer_reader.Integer("outputs", kMaxWeights, &layer.outputs);
    layer_reader.Numbers("weights", kMaxWeights, &layer.weights);
    layer_reader.Numbers("bias", kMaxWeights, &layer.bias);
    ABACUS_RETURN_IF_ERROR(layer_reader.status());
    file->layers.push_back(std::move(layer));
  }
  const size_t models = file->subject.models.size();
  for (const json& entry : *trained) {
    TrainedSet set;
    ObjectReader set_reader(entry, "trained set " + std::to_string(file->trained.size()));
    set_reader.Numbers("models", profile_json::kMaxModels, &set.models);
    set_reader.Integer("samples", uint64_t{1} << 53, &set.samples);
    set_reader.Number("mape", &set.mape);
    if (set.models.empty() || set.models.back() >= models ||
        std::adjacent_find(set.models.begin(), set.models.end(), std::greater_equal<>()) != set.models.end()) {
      set_reader.Fail("\"models\" must ascend and name models of the file");
    }
    ABACUS_RETURN_IF_ERROR(set_reader.status());
    file->trained.push_back(std::move(set));
  }
  // The network must fit the columns; Mlp checks the rest.
  const Result<Mlp> mlp = Mlp::Create(file->layers);
  if (!mlp) return mlp.error();
  if (mlp->inputs() != FeatureCount(models)) {
    return {StatusCode::kInvalidArgument, "the network takes " + std::to_string(mlp->inputs()) + " columns, " +
                                              std::to_string(models) + " models have " +
                                              std::to_string(FeatureCount(models))};
  }
  for (const ModelProfile& model : file->subject.models) {
    for (const BucketProfile& bucket : model.buckets) {
      if (!bucket.measured()) return {StatusCode::kInvalidArgument, "solo times of " + model.name + " are missing"};
    }
  }
  return Status::Ok();
}

}  // namespace

std::string EncodePredictor(const PredictorFile& predictor) {
  json layers = json::array(), trained = json::array();
  for (const MlpLayer& layer : predictor.layers) layers.push_back(LayerToJson(layer));
  for (const TrainedSet& set : predictor.trained) {
    trained.push_back({{"models", set.models}, {"samples", set.samples}, {"mape", set.mape}});
  }
  const std::string body = json{{"features", kFeatureSchema},
                                {"subject", profile_json::SubjectToJson(predictor.subject, /*with_solo=*/true)},
                                {"layers", std::move(layers)},
                                {"trained", std::move(trained)},
                                {"samples", predictor.samples},
                                {"mape", predictor.mape},
                                {"residuals", predictor.residuals}}
                               .dump(-1, ' ', false, json::error_handler_t::replace);
  return std::string(kMagic) + std::to_string(kPredictorSchema) + " " + std::to_string(body.size()) + " " +
         Crc32Text(body) + "\n" + body;
}

Result<PredictorFile> DecodePredictor(std::string_view bytes, const std::string& source) {
  const auto bad = [&](const std::string& what) { return Error(StatusCode::kInvalidArgument, source + ": " + what); };
  const size_t line_end = bytes.substr(0, 100).find('\n');
  if (line_end == std::string_view::npos || !bytes.starts_with(kMagic)) {
    return bad("not a predictor of abacus-train");
  }
  std::istringstream first_line{std::string(bytes.substr(kMagic.size(), line_end - kMagic.size()))};
  uint64_t schema = 0, body_bytes = 0;
  std::string checksum;
  first_line >> schema >> body_bytes >> checksum;
  if (!first_line) return bad("the first line is damaged");
  if (schema != kPredictorSchema) {
    return bad("it has schema " + std::to_string(schema) + ", this program reads schema " +
               std::to_string(kPredictorSchema) + "; train again");
  }
  const std::string_view body = bytes.substr(line_end + 1);
  if (body.size() < body_bytes) {
    return bad("cut off: " + std::to_string(body.size()) + " of " + std::to_string(body_bytes) + " bytes");
  }
  if (body.size() > body_bytes || Crc32Text(body) != checksum) return bad("damaged: its checksum does not match");
  const json parsed = json::parse(body, nullptr, /*allow_exceptions=*/false);
  PredictorFile file;
  if (const Status status = ReadBody(parsed, &file); !status.ok()) return Error(status.WithContext(source));
  return file;
}

Status SavePredictor(const PredictorFile& predictor, const std::filesystem::path& path) {
  std::error_code error;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), error);
  return WriteWholeFile(path, EncodePredictor(predictor));
}

Result<PredictorFile> LoadPredictor(const std::filesystem::path& path) {
  const Result<std::string> bytes = ReadWholeFile(path, kMaxBytes);
  if (!bytes) return Error(bytes.error().code(), bytes.error().message() + "; ./mps.sh train writes predictors");
  return DecodePredictor(*bytes, path.string());
}

}  // namespace abacus
