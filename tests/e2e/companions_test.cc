// Who else is in a batch makes no difference: real models in real workers on the CPU. Each row is asked alone first.
// Then clients ask for random rows, a few or more than the largest bucket holds, all at once; every row of every answer
// must be what it was alone, up to the model's tolerance. Some rows hold a NaN and some are of another magnitude: what
// they do to their own answer they must not do to others. Neither must queries that are taken back.
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <tuple>

#include "base/file.h"
#include "tests/e2e/closeness.h"
#include "tests/e2e/equality.h"
#include "tests/worker/torch/test_models.h"

namespace abacus::test {
namespace {

constexpr size_t kRows = 20;  // that there are of each length
constexpr int kClients = 3, kTurns = kSanitized ? 4 : 12, kQueriesOfATurn = 120;

bool HasNan(size_t row) { return row % 5 == 2; }
bool IsLarge(size_t row) { return row % 5 == 4; }

// Attention over tokens of which some may be masked, and a class: an integer that rounding can only change where two
// logits are equal but for rounding.
ModelSpec MakeEncoder(const TempDir& dir) {
  ModelSpec spec = SaveModel(
      dir, "encoder",
      R"(
def forward(self, ids, mask, scale):
    x = torch.embedding(self.table, ids) * scale.unsqueeze(1)
    keys = torch.matmul(x, self.keys).transpose(1, 2)
    scores = torch.matmul(torch.matmul(x, self.queries), keys) * 0.25
    scores = torch.masked_fill(scores, mask.unsqueeze(1) == 0, -1e30)
    x = x + torch.matmul(torch.softmax(scores, -1), torch.matmul(x, self.values))
    weights = mask.unsqueeze(2) * 1.0
    pooled = torch.sum(x * weights, 1) / torch.sum(weights, 1)
    logits = torch.matmul(torch.tanh(pooled), self.head)
    return logits, torch.argmax(logits, 1), torch.sum(ids * mask, 1)
)",
      {{"table", {50, 16}}, {"keys", {16, 16}}, {"queries", {16, 16}}, {"values", {16, 16}}, {"head", {16, 7}}});
  spec.batch_sizes = {1, 2, 4, 8};
  spec.sequence_lengths = {4, 8, 12};
  spec.inputs = {IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 49}),
                 IntTensor("mask", {kBatchDim, kSequenceDim}, {0, 1}), FloatTensor("scale", {kBatchDim, 16})};
  spec.outputs = {FloatTensor("logits", {kBatchDim, 7}), IntTensor("class", {kBatchDim}, {0, 6}),
                  IntTensor("sum", {kBatchDim}, {0, 1000})};
  return spec;
}

struct Subject {
  ModelSpec spec;
  double tolerance;  // of an output, from its largest value in that row; 0: none, its operators do one element each
};

std::vector<int64_t> LengthsOf(const ModelSpec& spec) {
  if (!spec.has_sequence()) return {0};
  if (spec.sequence_padding == SequencePadding::kExact) return spec.sequence_lengths;
  std::vector<int64_t> lengths(static_cast<size_t>(spec.sequence_lengths.back()));
  std::iota(lengths.begin(), lengths.end(), 1);
  return lengths;
}

// What a row holds follows from model, length and number alone.
InferRequest QueryOf(const ModelSpec& spec, int64_t length, const std::vector<size_t>& rows) {
  InferRequest request;
  request.model = spec.name;
  bool has_nan = false;  // one float input of the row has
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const TensorSpec& tensor = spec.inputs[i];
    const Shape shape = ShapeAt(tensor, static_cast<int64_t>(rows.size()), length);
    const size_t width = static_cast<size_t>(shape.Elements().value()) / rows.size();
    std::vector<float> floats;
    std::vector<int64_t> integers;
    for (const size_t row : rows) {
      std::mt19937_64 random(i * 10'000 + static_cast<size_t>(length) * 100 + row);
      const size_t begin = floats.size();
      for (size_t k = 0; k < width; ++k) {
        if (tensor.dtype == DType::kInt64) {
          const auto drawn = static_cast<int64_t>(random() % static_cast<uint64_t>(tensor.range->high + 1));
          integers.push_back(tensor.name == "mask" && k == 0 ? 1 : drawn);  // at least one token counts
        } else {
          const float value = static_cast<float>(random() % 4'000'001) / 1e6f - 2.0f;
          floats.push_back(IsLarge(row) ? 1000 * value : value);
        }
      }
      if (tensor.dtype == DType::kFloat32 && HasNan(row) && !has_nan) {
        floats[begin + random() % width] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    has_nan |= tensor.dtype == DType::kFloat32;
    request.inputs.push_back(tensor.dtype == DType::kInt64 ? TensorOf(tensor.name, tensor.dtype, shape, integers)
                                                           : TensorOf(tensor.name, tensor.dtype, shape, floats));
  }
  return request;
}

// One row of a tensor.
Tensor RowAt(const Tensor& tensor, size_t row) {
  Tensor one = tensor;
  one.shape[0] = 1;
  const size_t bytes = tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
  one.bytes = tensor.bytes.subspan(row * bytes, bytes);
  return one;
}

// Whether the largest logit is so by more than rounding could change.
bool HasClearMargin(const Tensor& logits, double tolerance) {
  std::vector<float> values = logits.ToVector<float>();
  if (std::ranges::any_of(values, [](float value) { return std::isnan(value); })) return false;
  std::ranges::sort(values, std::greater());
  const float largest = std::max(std::abs(values.front()), std::abs(values.back()));
  return values[0] - values[1] > 2 * tolerance * largest;
}

using Outputs = std::vector<Tensor>;

// What differs between a row's outputs and those it had alone; empty: nothing.
std::string RowDifference(const Outputs& alone, const Outputs& got, double tolerance) {
  if (got.size() != alone.size()) return std::to_string(got.size()) + " outputs";
  for (size_t i = 0; i < alone.size(); ++i) {
    if (alone[i].name == "class" && !HasClearMargin(alone[0], tolerance)) continue;
    std::string difference = Difference(alone[i], got[i], tolerance);
    if (!difference.empty()) return difference;
  }
  return "";
}

class Companions : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::vector<TestModel> models = AllModels();
    const auto named = [&](const std::string& name) {
      return std::ranges::find(models, name, [](const TestModel& model) { return std::string(model.name); })
          ->make(dir_);
    };
    subjects_ = {{MakeEncoder(dir_), 1e-4}, {named("Convolution"), 1e-4}, {named("Multi"), 1e-4},
                 {named("InPlace"), 1e-4},  {MakeRowwise(dir_), 1e-4},    {MakeMixedRows(dir_), 0}};
    std::vector<EqualityService> services;
    for (const Subject& subject : subjects_) {
      services.push_back({subject.spec, ReadWholeFile(subject.spec.file).value()});
    }
    controller_ = std::make_unique<ControllerProcess>(ServicesOf(services, {.device = "cpu", .policy = GetParam()}));
    ASSERT_EQ(controller_->error(), "");
  }

  // Asks for every row by itself; nothing else runs meanwhile.
  void AskForEachRowAlone() {
    const auto client = ConnectTo(controller_->ipc(), 120);
    ASSERT_NE(client, nullptr);
    for (size_t s = 0; s < subjects_.size(); ++s) {
      for (const int64_t length : LengthsOf(subjects_[s].spec)) {
        for (size_t row = 0; row < kRows; ++row) {
          const auto reply = client->Infer(QueryOf(subjects_[s].spec, length, {row}));
          ASSERT_TRUE(reply && reply->status.ok()) << AnswerText(reply);
          alone_[{s, length, row}] = reply->outputs;
        }
      }
      EXPECT_EQ(controller_->stats(s).jobs.load(), controller_->stats(s).job_queries.load());
    }
  }

  // Random queries of one client, many at once.
  void AskForMany(unsigned seed) {
    const auto client = ConnectTo(seed % 2 == 0 ? controller_->tcp() : controller_->ipc(), 120);
    if (client == nullptr) return;
    std::mt19937 random(seed);
    struct Asked {
      size_t subject;
      int64_t length;
      std::vector<size_t> rows;
      bool cancelled;
      PendingReply reply;
    };
    for (int turn = 0; turn < kTurns; ++turn) {
      std::vector<Asked> asked;
      for (int i = 0; i < kQueriesOfATurn; ++i) {
        const size_t s = random() % subjects_.size();
        const ModelSpec& spec = subjects_[s].spec;
        const std::vector<int64_t> lengths = LengthsOf(spec);
        const int64_t length = lengths[random() % lengths.size()];
        std::vector<size_t> rows(1 + random() % (random() % 30 == 0 ? 40 : 3));
        for (size_t& row : rows) row = random() % kRows;
        in_parts_ += static_cast<int64_t>(rows.size()) > spec.batch_sizes.back() ? 1 : 0;
        InferRequest request = QueryOf(spec, length, rows);
        request.qos_us = 1'000 * (1 + random() % 1'000);  // urgency mixes who goes along; nothing is abandoned
        PendingReply reply = client->Submit(std::move(request));
        const bool cancelled = random() % 20 == 0;
        if (cancelled) client->Cancel(reply.id());
        asked.push_back({s, length, std::move(rows), cancelled, std::move(reply)});
      }
      for (Asked& query : asked) {
        const Result<InferReply> reply = query.reply.get();
        if (query.cancelled && reply && reply->status.code() == StatusCode::kCancelled) continue;
        ASSERT_TRUE(reply && reply->status.ok()) << AnswerText(reply);
        for (size_t k = 0; k < query.rows.size(); ++k) {
          Outputs got;
          for (const Tensor& output : reply->outputs) got.push_back(RowAt(output, k));
          const Outputs& alone = alone_.at({query.subject, query.length, query.rows[k]});
          ASSERT_EQ(RowDifference(alone, got, subjects_[query.subject].tolerance), "")
              << subjects_[query.subject].spec.name << ", length " << query.length << ", row " << query.rows[k]
              << " at " << k << " of " << query.rows.size();
        }
      }
    }
  }

  const TempDir dir_;
  std::vector<Subject> subjects_;
  std::unique_ptr<ControllerProcess> controller_;
  std::map<std::tuple<size_t, int64_t, size_t>, Outputs> alone_;  // by subject, length and row
  std::atomic<int> in_parts_{0};                                  // queries of more rows than the largest bucket
};

TEST_P(Companions, MakeNoDifferenceToARow) {
  AskForEachRowAlone();
  if (HasFatalFailure()) return;
  // A NaN shows in its own row, and rows differ: else equal answers would tell nothing.
  size_t clear = 0;
  for (const auto& [key, outputs] : alone_) {
    const auto [subject, length, row] = key;
    bool any_nan = false;
    for (const Tensor& output : outputs) {
      if (output.dtype != DType::kFloat32) continue;
      for (const float value : output.ToVector<float>()) any_nan |= std::isnan(value);
    }
    EXPECT_EQ(any_nan, HasNan(row)) << subject << ", " << length << ", " << row;
    const auto& next = alone_.at({subject, length, (row + 1) % kRows});
    EXPECT_NE(RowDifference(outputs, next, 1e-4), "");
    clear += subject == 0 && HasClearMargin(outputs[0], 1e-4) ? 1 : 0;
  }
  EXPECT_GT(clear, kRows * 12 / 2) << "classes that rounding cannot change";

  std::vector<std::array<uint64_t, 2>> before;
  for (size_t s = 0; s < subjects_.size(); ++s) {
    before.push_back({controller_->stats(s).jobs.load(), controller_->stats(s).job_queries.load()});
  }
  std::vector<std::jthread> clients;
  for (unsigned c = 0; c < kClients; ++c) clients.emplace_back([this, c] { AskForMany(c + 1); });
  clients.clear();

  EXPECT_GT(in_parts_.load(), 0);
  for (size_t s = 0; s < subjects_.size(); ++s) {
    const ServiceStats& stats = controller_->stats(s);
    const uint64_t jobs = stats.jobs.load() - before[s][0], queries = stats.job_queries.load() - before[s][1];
    EXPECT_GT(queries, jobs + jobs / 20) << subjects_[s].spec.name << " had no jobs of several queries";
    EXPECT_GT(stats.padding_rows.load(), 0u) << subjects_[s].spec.name;
  }
  const auto [code, text] =
      RunLine(std::string(ABACUS_BIN_DIR) + "/abacus-status --json --name " + controller_->name());
  ASSERT_EQ(code, 0) << text;
  for (const nlohmann::json& service : nlohmann::json::parse(text)["services"]) {
    EXPECT_GT(service["rows_per_job"], 1.0) << service["name"];
    EXPECT_GT(service["queries_per_job"], 1.0) << service["name"];
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Companions, testing::Values("abacus", "free"));

}  // namespace
}  // namespace abacus::test
