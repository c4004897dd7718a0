// The path of a query through the front end and back, and what is served.
#include "controller/intake/front_end.h"

#include <gmock/gmock.h>

#include "models/held_model.h"
#include "tests/controller/intake/front_end_fixture.h"

namespace abacus {
namespace {

using protocol::RequestType;
using testing::HasSubstr;

TEST_F(FrontEndTest, AQueryTakesItsTensorsIntoTheArenaAsTheyAre) {
  Start();
  Dealer dealer(endpoint());
  const std::string x(3 * 16, 'q');
  protocol::Request request = ImageQuery(7, 3);
  request.qos_us = 5000;
  dealer.Send(request, {x});
  const uint32_t slot = NextQuery();
  const Query& query = (*table_)[slot];
  EXPECT_EQ(query.id, 7u);
  EXPECT_EQ(query.service, image_);
  EXPECT_EQ(query.rows, 3u) << "its own, not those of the bucket of 4";
  EXPECT_EQ(query.sequence, 0u);
  EXPECT_FALSE(query.synthetic);
  EXPECT_EQ(query.deadline_ns - query.arrival_ns, 5000 * kNsPerUs);
  EXPECT_GE(query.block.bytes, LayoutOfQuery(slot).total_bytes);
  EXPECT_EQ(header().arena_used_bytes.load(), query.block.bytes);
  EXPECT_EQ(Input(slot, 0), x);
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return wakes_.load() > 0; })) << "the scheduler was woken";
  Finish(slot, StatusCode::kWorkerFailed, "broken");
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kWorkerFailed);
  EXPECT_EQ(answer->reply.message, "broken");
  EXPECT_TRUE(answer->outputs.empty());
  ExpectAllBack();
}

TEST_F(FrontEndTest, AReplyCarriesTheOutputsOutOfTheArena) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(ImageQuery(8, 3), {std::string(3 * 16, 'q')});
  const uint32_t slot = NextQuery();
  std::string y;
  for (int i = 0; i < 3 * 16; ++i) y.push_back(static_cast<char>('A' + i));
  WriteOutput(slot, 0, y);
  (*table_)[slot].timing = {.queued_us = 1, .executed_us = 2, .total_us = 0, .rounds = 3, .predicted_us = 4};
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 8u);
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  EXPECT_EQ(answer->reply.model, "image");
  ASSERT_EQ(answer->reply.outputs.size(), 1u);
  EXPECT_EQ(answer->reply.outputs[0], (protocol::TensorHeader{"y", DType::kFloat32, Shape{3, 4}}));
  EXPECT_EQ(answer->outputs, std::vector<std::string>{y});
  EXPECT_EQ(answer->reply.timing.queued_us, 1u);
  EXPECT_EQ(answer->reply.timing.executed_us, 2u);
  EXPECT_EQ(answer->reply.timing.rounds, 3u);
  EXPECT_EQ(answer->reply.timing.predicted_us, 4u);
  ExpectAllBack();
}

TEST_F(FrontEndTest, InputsComeInAnyOrderAndLength) {
  ModelSpec spec = test::TextSpec();
  spec.inputs.push_back({"mask", DType::kFloat32, Shape{kBatchDim, kSequenceDim}, {}, 0});
  text_ = MakeService(1, 2, spec);
  Start();
  Dealer dealer(endpoint());
  protocol::Request request;
  request.id = 1;
  request.model = "text";
  request.inputs = {{"mask", DType::kFloat32, Shape{2, 5}}, {"ids", DType::kInt64, Shape{2, 5}}};
  std::string ids(2 * 5 * 8, '\0');
  for (size_t i = 0; i < 10; ++i) ids[i * 8] = static_cast<char>(i + 1);
  const std::string mask(2 * 5 * 4, 'm');
  dealer.Send(request, {mask, ids});
  const uint32_t slot = NextQuery();
  EXPECT_EQ((*table_)[slot].rows, 2u);
  EXPECT_EQ((*table_)[slot].sequence, 5u) << "its own, not that of the bucket of 8";
  EXPECT_EQ(Input(slot, 0), ids);
  EXPECT_EQ(Input(slot, 1), mask);
  const std::string out(2 * 5 * 8, 'o');
  WriteOutput(slot, 0, out);
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.outputs.size(), 1u);
  EXPECT_EQ(answer->reply.outputs[0].shape, (Shape{2, 5}));
  EXPECT_EQ(answer->outputs, std::vector<std::string>{out});
  ExpectAllBack();
}

TEST_F(FrontEndTest, ASyntheticQueryTakesNoMemory) {
  Start(1 << 20, 128, /*arena_ready=*/false);
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1));
  const uint32_t slot = NextQuery();
  EXPECT_TRUE((*table_)[slot].synthetic);
  EXPECT_EQ((*table_)[slot].block.bytes, 0u);
  EXPECT_EQ((*table_)[slot].deadline_ns - (*table_)[slot].arrival_ns, image_->config.qos_ns) << "the service's target";
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  EXPECT_TRUE(answer->reply.outputs.empty());
  ExpectAllBack();
}

TEST_F(FrontEndTest, ListsItsModels) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Ask(RequestType::kModels, 5));
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 5u);
  ASSERT_EQ(answer->reply.models.size(), 2u);
  EXPECT_EQ(answer->reply.models[0].name, "image");
  EXPECT_EQ(answer->reply.models[0].batch_sizes, (std::vector<int64_t>{1, 2, 4}));
  EXPECT_EQ(answer->reply.models[0].qos_us, image_->config.qos_ns / kNsPerUs);
  const protocol::ModelDescription& text = answer->reply.models[1];
  ASSERT_EQ(text.inputs.size(), 1u);
  EXPECT_EQ(text.inputs[0].dims, (std::vector<std::string>{"batch", "sequence"}));
  EXPECT_TRUE(text.inputs[0].has_range);
  EXPECT_EQ(text.inputs[0].high, 99);
  EXPECT_EQ(text.sequence_lengths, (std::vector<int64_t>{4, 8}));
  ExpectAllBack();
}

TEST_F(FrontEndTest, AModelSaysWhatItTakes) {
  ModelSpec text = test::TextSpec();
  text.batchable = false;
  text.sequence_padding = SequencePadding::kExact;
  text.inputs.push_back({"lengths", DType::kInt64, Shape{kBatchDim}, IntRange{1, 8, /*to_sequence=*/true}, 0});
  text.inputs.push_back({"x", DType::kFloat32, Shape{kBatchDim, 2}, {}, 0, FloatRange{0.01, 1}});
  text_ = MakeService(1, 2, text);
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Ask(RequestType::kModels, 5));
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.models.size(), 2u);
  const protocol::ModelDescription& plain = answer->reply.models[0];
  EXPECT_TRUE(plain.batchable);
  EXPECT_EQ(plain.sequence_padding, "") << "padding is harmless";
  EXPECT_EQ(plain.digest, "") << "nothing is held of it";
  EXPECT_FALSE(plain.inputs[0].has_range);
  EXPECT_FALSE(plain.inputs[0].has_float_range);
  const protocol::ModelDescription& exact = answer->reply.models[1];
  EXPECT_FALSE(exact.batchable);
  EXPECT_EQ(exact.sequence_padding, "exact");
  ASSERT_EQ(exact.inputs.size(), 3u);
  EXPECT_FALSE(exact.inputs[0].range_to_sequence);
  EXPECT_TRUE(exact.inputs[1].range_to_sequence);
  EXPECT_EQ(exact.inputs[1].low, 1);
  EXPECT_EQ(exact.inputs[1].high, 8);
  EXPECT_TRUE(exact.inputs[2].has_float_range);
  EXPECT_EQ(exact.inputs[2].float_low, 0.01);
  EXPECT_EQ(exact.inputs[2].float_high, 1);
  ExpectAllBack();
}

TEST_F(FrontEndTest, ModelsAndRepliesSayWhichModelItIs) {
  ModelSpec spec = test::ImageSpec();
  spec.text = "name = 'image'";
  const HeldModelPtr held = HeldModel::Open(spec, /*need_file=*/false).value();
  Service service = *image_;
  service.held = held;
  image_ = std::make_shared<const Service>(std::move(service));
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Ask(RequestType::kModels, 1));
  auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.models.at(0).digest, held->digest());
  dealer.Send(Synthetic(2));
  Finish(NextQuery());
  answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.digest, held->digest().substr(0, 16));
  dealer.Send(Synthetic(3));
  Finish(NextQuery(), StatusCode::kWorkerFailed, "broken");
  answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.digest, "") << "no model answered";
  ExpectAllBack();
}

TEST_F(FrontEndTest, StatesWhatItTakes) {
  limits_.max_frame_bytes = 1 << 20;
  limits_.max_message_bytes = 3 << 20;
  Start();
  Dealer dealer(endpoint());
  for (const RequestType type : {RequestType::kModels, RequestType::kHealth}) {
    dealer.Send(Ask(type, 1));
    const auto answer = dealer.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.max_frame_bytes, uint64_t{1} << 20);
    EXPECT_EQ(answer->reply.max_message_bytes, uint64_t{3} << 20);
  }
  dealer.Send(Synthetic(2));
  Finish(NextQuery());
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.max_frame_bytes, 0u) << "not in every reply";
  ExpectAllBack();
}

TEST_F(FrontEndTest, ATargetBeyondAnHourCountsAsAnHour) {
  Start();
  Dealer dealer(endpoint());
  protocol::Request request = Synthetic(1);
  for (const uint64_t qos_us : {uint64_t{3'600'000'000}, uint64_t{1} << 63, UINT64_MAX}) {
    request.qos_us = qos_us;
    dealer.Send(request);
    const uint32_t slot = NextQuery();
    EXPECT_EQ((*table_)[slot].deadline_ns - (*table_)[slot].arrival_ns, 3600 * kNsPerSecond) << qos_us;
    Finish(slot);
    ASSERT_TRUE(dealer.Receive().has_value());
  }
  ExpectAllBack();
}

TEST_F(FrontEndTest, HealthFollowsTheWorkerAndTheServiceById) {
  Start();
  WorkerSlot& image_worker = region_->worker(image_->worker);
  WorkerSlot& text_worker = region_->worker(text_->worker);
  region_->service(image_->id).stats.queued.store(11);
  region_->service(text_->id).stats.restarts.store(4);
  image_worker.pid.store(77);
  StoreText(text_worker.error, "no such file");
  text_worker.generation.store(1);
  image_worker.state.store(static_cast<uint32_t>(WorkerState::kServing), std::memory_order_release);
  Dealer dealer(endpoint());
  uint64_t id = 0;
  const auto health = [&](WorkerState text_state) {
    text_worker.state.store(static_cast<uint32_t>(text_state), std::memory_order_release);
    dealer.Send(Ask(RequestType::kHealth, ++id));
    const auto answer = dealer.Receive();
    return answer ? answer->reply : protocol::Reply{};
  };
  protocol::Reply reply = health(WorkerState::kLoading);
  EXPECT_FALSE(reply.ready);
  ASSERT_EQ(reply.services.size(), 2u);
  EXPECT_EQ(reply.services[0].name, "image");
  EXPECT_EQ(reply.services[0].state, "ready");
  EXPECT_EQ(reply.services[0].worker_pid, 77);
  EXPECT_EQ(reply.services[0].queued, 11u);
  EXPECT_EQ(reply.services[0].message, "");
  EXPECT_EQ(reply.services[1].state, "starting");
  EXPECT_EQ(reply.services[1].restarts, 4u);
  EXPECT_EQ(reply.services[1].message, "no such file");
  EXPECT_EQ(health(WorkerState::kFailed).services.at(1).state, "failed");
  EXPECT_EQ(health(WorkerState::kExited).services.at(1).state, "restarting");
  ASSERT_TRUE(InUseBecomes(0)) << "the front end has done with the slot that is written now";
  text_worker.generation.store(2);
  EXPECT_EQ(health(WorkerState::kStarting).services.at(1).state, "restarting") << "not its first process";
  EXPECT_TRUE(health(WorkerState::kServing).ready);
  front_end_->SetDraining();
  EXPECT_FALSE(health(WorkerState::kServing).ready);
  ExpectAllBack();
}

TEST_F(FrontEndTest, DrainingRefusesNewQueriesAndAnswersOldOnes) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1));
  const uint32_t slot = NextQuery();
  front_end_->SetDraining();
  dealer.Send(Synthetic(2));
  ExpectRefused(dealer, 2, StatusCode::kShuttingDown, "");
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 1u);
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  ExpectAllBack();
}

TEST_F(FrontEndTest, APublishedSetIsServedFromThenOn) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1, "extra"));
  ExpectRefused(dealer, 1, StatusCode::kUnknownModel, "model");
  dealer.Send(ImageQuery(2, 1), {std::string(16, 'q')});
  const uint32_t before = NextQuery();

  ModelSpec renamed = test::ImageSpec();
  renamed.outputs[0].name = "z";
  renamed.outputs[0].dims = Shape{kBatchDim, 2};
  Service replaced = *MakeService(0, 3, renamed);
  replaced.config.qos_ns = 7 * kNsPerMs;
  ModelSpec extra = test::ImageSpec();
  extra.name = "extra";
  front_end_->Publish(MakeSet({std::make_shared<const Service>(std::move(replaced)), text_, MakeService(2, 5, extra)}));
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    dealer.Send(Ask(RequestType::kModels, 3));
    const auto models = dealer.Receive();
    return models && models->reply.models.size() == 3;
  }));

  dealer.Send(ImageQuery(4, 1), {std::string(16, 'q')});
  const uint32_t after = NextQuery();
  EXPECT_EQ((*table_)[after].deadline_ns - (*table_)[after].arrival_ns, 7 * kNsPerMs);
  dealer.Send(Synthetic(5, "extra"));
  const uint32_t added = NextQuery();
  EXPECT_EQ((*table_)[added].service->worker, WorkerId(5));

  WriteOutput(before, 0, std::string(16, 'b'));
  WriteOutput(after, 0, std::string(8, 'a'));
  Finish(before);
  auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.outputs.size(), 1u);
  EXPECT_EQ(answer->reply.outputs[0].name, "y") << "by the service that admitted it";
  EXPECT_EQ(answer->outputs[0], std::string(16, 'b'));
  Finish(after);
  answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.outputs.size(), 1u);
  EXPECT_EQ(answer->reply.outputs[0], (protocol::TensorHeader{"z", DType::kFloat32, Shape{1, 2}}));
  EXPECT_EQ(answer->outputs[0], std::string(8, 'a'));
  Finish(added);
  answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.model, "extra");
  ExpectAllBack();
}

TEST_F(FrontEndTest, AReplacedServiceIsForgottenWithItsLastQuery) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1));
  const uint32_t slot = NextQuery();
  const std::weak_ptr<const Service> old = image_;
  image_ = nullptr;
  front_end_->Publish(MakeSet({text_}));
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    dealer.Send(Ask(RequestType::kModels, 2));
    const auto models = dealer.Receive();
    return models && models->reply.models.size() == 1;
  }));
  EXPECT_FALSE(old.expired());
  Finish(slot);
  ASSERT_TRUE(dealer.Receive().has_value());
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return old.expired(); }));
  ExpectAllBack();
}

TEST_F(FrontEndTest, SaysWhichAddressIsTaken) {
  Start();
  server_.listen = {endpoint()};
  const auto second = FrontEnd::Create(server_, limits_, MakeSet({image_}), "", region_.get(), table_.get(),
                                       channel_.get(), &leases_, [] {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(second.error().message(), HasSubstr(endpoint()));
}

// Many replies out at once, released by the I/O thread while the front end reuses slots and blocks: what
// ThreadSanitizer looks at. Frames of this size are sent from where they lie.
TEST_F(FrontEndTest, ManyClientsAtOnceGetTheirOwnBytes) {
  ModelSpec spec = test::ImageSpec();
  spec.inputs[0].dims = Shape{kBatchDim, 3000};
  spec.outputs[0].dims = Shape{kBatchDim, 3000};
  spec.outputs.push_back({"copy", DType::kFloat32, Shape{kBatchDim, 3000}, {}, 0});
  image_ = MakeService(0, 3, spec);
  limits_.max_queries = 200;
  Start(16 << 20, 256);
  constexpr int kClients = 3, kQueries = 300, kWindow = 8;
  std::atomic<int> good{0};
  std::vector<std::jthread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([this, c, &good] {
      Dealer dealer(endpoint());
      protocol::Request request;
      request.model = "image";
      request.inputs.push_back({"x", DType::kFloat32, Shape{1, 3000}});
      const auto bytes_of = [&](uint64_t id) { return std::string(12'000, static_cast<char>(id * 3 + c)); };
      for (int i = 0; i < kQueries + kWindow; ++i) {
        if (i >= kWindow) {
          const auto answer = dealer.Receive();
          if (!answer || answer->outputs.size() != 2) return;
          const std::string expected = bytes_of(answer->reply.id);
          good += answer->outputs[0] == expected && answer->outputs[1] == expected;
        }
        if (i < kQueries) {
          request.id = static_cast<uint64_t>(i);
          dealer.Send(request, {bytes_of(request.id)});
        }
      }
    });
  }
  for (int i = 0; i < kClients * kQueries; ++i) {
    const uint32_t slot = NextQuery();
    if (slot == UINT32_MAX) break;
    const std::string x = Input(slot, 0);
    WriteOutput(slot, 0, x);
    WriteOutput(slot, 1, x);
    Finish(slot);
  }
  clients.clear();
  EXPECT_EQ(good.load(), kClients * kQueries);
  ExpectAllBack();
}

}  // namespace
}  // namespace abacus
