// Real models in the real worker, on the CPU: what is served is what the controller admitted, whatever happens to the
// files; and one model that cannot be served takes nobody with it.
#include <signal.h>

#include <filesystem>

#include "base/file.h"
#include "tests/e2e/harness.h"
#include "tests/worker/torch/test_models.h"

namespace abacus::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kPatienceS = kPatienceMs / 1000;

// The bytes of a model file with this forward().
std::string ModelFile(const std::string& forward) {
  const TempDir dir;
  return ReadWholeFile(SaveModel(dir, "m", forward).file).value();
}
// y = (2x, x + 1); and what replaces it: other numbers, in the other order.
std::string First() { return ModelFile("def forward(self, x):\n    return torch.mul(x, 2.0), torch.add(x, 1.0)\n"); }
std::string Second() { return ModelFile("def forward(self, x):\n    return torch.add(x, 5.0), torch.mul(x, 7.0)\n"); }

std::string Description(const std::string& name, const std::string& outputs) {
  return "name = \"" + name + "\"\nfile = \"" + name +
         ".pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\", 3]\n" + outputs +
         "[buckets]\nbatch = [1, 2]\n";
}
std::string Output(const std::string& name) {
  return "[[outputs]]\nname = \"" + name + "\"\ndtype = \"float32\"\nshape = [\"batch\", 3]\n";
}

// Services "a" and "b", both of the first model, from files of their own.
ControllerProcess::Options RealServices() {
  ControllerProcess::Options options;
  options.bin_dir = ABACUS_BIN_DIR;
  options.on_complaint = [](const std::string& complaint) { ADD_FAILURE() << complaint; };
  options.server = "arena_mib = 32\n";
  options.config =
      "[scheduler]\nabandon = false\n[worker]\ndevice = \"cpu\"\nmax_restarts_per_minute = 500\n"
      "[[service]]\nname = \"a\"\nmodel = \"a.toml\"\n[[service]]\nname = \"b\"\nmodel = \"b.toml\"\n";
  const std::string model = First();
  for (const std::string name : {"a", "b"}) {
    options.files[name + ".toml"] = Description(name, Output("double") + Output("plus"));
    options.files[name + ".pt"] = model;
  }
  options.ready_timeout_s = 120;
  return options;
}

class Identity : public testing::Test {
 protected:
  void Start(const ControllerProcess::Options& options = RealServices()) {
    controller_ = std::make_unique<ControllerProcess>(options);
    ASSERT_EQ(controller_->error(), "");
  }
  fs::path file(const std::string& name) const { return controller_->directory() / name; }

  // As the exporter does: new files under the old names.
  void Replace(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteWholeFile(file(name), content).ok());
  }
  void WriteInPlace(const std::string& name, const std::string& content) {
    FILE* const out = std::fopen(file(name).c_str(), "r+b");
    ASSERT_NE(out, nullptr);
    ASSERT_EQ(std::fwrite(content.data(), 1, content.size(), out), content.size());
    std::fclose(out);
    fs::resize_file(file(name), content.size());
  }
  // Ends the worker of a service; returns when a next one is in this state.
  void Restart(size_t service, WorkerState then) {
    const uint32_t generation = controller_->slot(service).generation.load();
    kill(controller_->worker_pid(service), SIGKILL);
    if (then == WorkerState::kServing) {
      ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller_->slot(service).generation.load() > generation; }));
    }
    ASSERT_TRUE(Eventually(kPatienceMs, [&] {
      return controller_->slot(service).state.load() == static_cast<uint32_t>(then) &&
             controller_->slot(service).generation.load() > generation &&
             (then != WorkerState::kFailed || Down(service));
    })) << controller_->Log();
  }
  bool Down(size_t service) { return LoadText(controller_->slot(service).error).find(" is down") != std::string::npos; }

  Result<InferReply> Ask(const std::string& model) {
    InferRequest request;
    request.model = model;
    request.inputs.push_back(TensorOf<float>("x", DType::kFloat32, {1, 3}, {1, 2, 4}));
    return ConnectTo(controller_->tcp())->Infer(std::move(request));
  }
  // Name and values of every output.
  std::vector<std::pair<std::string, std::vector<float>>> Outputs(const std::string& model) {
    std::vector<std::pair<std::string, std::vector<float>>> outputs;
    const auto reply = Ask(model);
    EXPECT_TRUE(reply && reply->status.ok()) << (reply ? reply->status : reply.error()).ToString();
    if (!reply) return outputs;
    for (const Tensor& tensor : reply->outputs) {
      std::vector<float> values(tensor.bytes.size() / sizeof(float));
      std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
      outputs.emplace_back(tensor.name, values);
    }
    return outputs;
  }
  void ExpectFirst(const std::string& model) {
    EXPECT_THAT(Outputs(model), ElementsAre(std::pair("double", std::vector<float>{2, 4, 8}),
                                            std::pair("plus", std::vector<float>{2, 3, 5})));
  }
  void ExpectSecond(const std::string& model) {
    EXPECT_THAT(Outputs(model), ElementsAre(std::pair("five", std::vector<float>{6, 7, 9}),
                                            std::pair("seven", std::vector<float>{7, 14, 28})));
  }
  void StartAgain() {
    controller_->Signal(SIGTERM);
    ASSERT_EQ(controller_->WaitExit(kPatienceS), 0);
    ASSERT_TRUE(controller_->StartAgain()) << controller_->error();
  }

  std::unique_ptr<ControllerProcess> controller_;
};

TEST_F(Identity, FilesThatAreReplacedChangeNothingUntilTheControllerIsRestarted) {
  Start();
  ExpectFirst("a");
  Replace("a.pt", Second());
  Restart(0, WorkerState::kServing);
  ExpectFirst("a");
  Replace("a.toml", Description("a", Output("five") + Output("seven")));
  Restart(0, WorkerState::kServing);
  ExpectFirst("a");
  // Gone altogether, which is what a failed export of another tool leaves.
  fs::remove(file("a.pt"));
  fs::remove(file("a.toml"));
  Restart(0, WorkerState::kServing);
  ExpectFirst("a");
  Replace("a.pt", Second());
  Replace("a.toml", Description("a", Output("five") + Output("seven")));
  StartAgain();
  ExpectSecond("a");
  ExpectFirst("b");
}

TEST_F(Identity, AModelFileThatIsChangedInPlaceIsNotServed) {
  Start();
  WriteInPlace("a.pt", Second());
  ExpectFirst("a");  // loaded is loaded
  Restart(0, WorkerState::kFailed);
  const auto refused = Ask("a");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(refused->status.message(), AllOf(HasSubstr(file("a.pt").string()), HasSubstr("changed in place"),
                                               HasSubstr("restart the controller")));
  ExpectFirst("b");
  const uint32_t generation = controller_->slot(0).generation.load();
  EXPECT_FALSE(Eventually(1000, [&] { return controller_->slot(0).generation.load() > generation; }))
      << "it would be refused again";
  WriteInPlace("a.toml", Description("a", Output("five") + Output("seven")));
  StartAgain();
  ExpectSecond("a");
}

TEST_F(Identity, TheNextWorkerTakesOverWhatTheFirstOneMeasured) {
  Start();
  const auto measured = [&] {
    std::vector<uint64_t> numbers;
    for (size_t bucket = 0; bucket < 2; ++bucket) {
      const RangeTableEntry& entry = controller_->slot(0).ranges[bucket];
      numbers.insert(numbers.end(), {entry.operators, entry.solo_ns, entry.cut_count});
      numbers.insert(numbers.end(), entry.cuts.begin(), entry.cuts.end());
    }
    return numbers;
  };
  const std::vector<uint64_t> first = measured();
  EXPECT_GT(first[1], 0u);
  Restart(0, WorkerState::kServing);
  EXPECT_EQ(measured(), first);
  ExpectFirst("a");
}

TEST_F(Identity, OneModelThatIsRefusedTakesNobodyWithIt) {
  for (const bool missing : {false, true}) {
    ControllerProcess::Options options = RealServices();
    options.files["a.pt"] = "this is no TorchScript";
    if (missing) options.files.erase("a.pt");
    options.wait_ready = false;
    Start(options);
    ASSERT_TRUE(controller_->WaitState(1, WorkerState::kServing, 120)) << controller_->Log();
    ASSERT_TRUE(controller_->WaitState(0, WorkerState::kFailed, kPatienceS)) << controller_->Log();
    ASSERT_TRUE(Eventually(kPatienceMs, [&] { return Down(0); }));
    const auto refused = Ask("a");
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status.code(), StatusCode::kWorkerFailed);
    EXPECT_THAT(refused->status.message(), AllOf(HasSubstr("a is down"), HasSubstr(file("a.pt").string())));
    ExpectFirst("b");
    EXPECT_EQ(controller_->slot(0).generation.load(), missing ? 0u : 1u) << "not tried without a file, else once";
    const auto [code, status] =
        RunLine(std::string(ABACUS_BIN_DIR) + "/abacus-status --json --name " + controller_->name());
    EXPECT_EQ(code, 0);
    EXPECT_THAT(status, AllOf(HasSubstr("\"refused\": true"), HasSubstr("\"refused\": false"), HasSubstr("a.pt")));
    const auto [check, said] = RunLine("ABACUS_RUN_DIR=" + controller_->directory().string() + " " + ABACUS_BIN_DIR +
                                       "/abacus-controller --check --config " + file("config.toml").string());
    EXPECT_EQ(check, missing ? 3 : 0);
    EXPECT_EQ(said.find("a would be down: " + file("a.pt").string()) != std::string::npos, missing) << said;
  }
}

}  // namespace
}  // namespace abacus::test
