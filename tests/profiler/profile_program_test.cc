// The real abacus-profile with fake workers: what it writes, and what it does when it or a worker is interrupted.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "predictor/profile_data.h"
#include "shm/region.h"
#include "tests/support/controller_process.h"

extern char** environ;

namespace abacus {
namespace {

namespace fs = std::filesystem;
using test::Eventually;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kTimeoutMs = 60'000;

std::string Content(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class ProfileProgramTest : public testing::Test {
 protected:
  ProfileProgramTest()
      : name_("profile-" + std::to_string(getpid())), directory_(fs::temp_directory_path() / ("abacus-" + name_)) {
    fs::create_directories(directory_);
    fs::permissions(directory_, fs::perms::owner_all);
    setenv("ABACUS_RUN_DIR", directory_.c_str(), 1);
    for (const char* model : {"image", "text"}) WriteModel(model, 0);
    std::ofstream(directory_ / "config.toml")
        << "[server]\narena_mib = 16\n[worker]\ndevice = \"fake\"\nmax_restarts_per_minute = 500\n"
           "[[service]]\nname = \"image\"\nmodel = \"image.toml\"\n"
           "[[service]]\nname = \"text\"\nmodel = \"text.toml\"\n";
  }
  ~ProfileProgramTest() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    fs::remove("/dev/shm/abacus-" + name_, ignored);  // left behind only after SIGKILL
    fs::remove_all(directory_, ignored);
  }

  void WriteModel(const std::string& name, double load_us) const {
    std::ofstream(directory_ / (name + ".toml"))
        << "name = \"" << name << "\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\", 8]\n"
        << "[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\", 8]\n[buckets]\nbatch = [1, 2, 4]\n"
        << "[fake]\noperators = 8\nbase_us = 300\nper_row_us = 50\nload_us = " << load_us << "\n";
  }
  void Start(const std::vector<std::string>& arguments, const fs::path& config) {
    const std::string program = ABACUS_BIN_DIR "/abacus-profile";
    std::vector<std::string> line = {program,       "--config", config.string(),       "--out",
                                     out_.string(), "--set",    "server.name=" + name_};
    line.insert(line.end(), arguments.begin(), arguments.end());
    std::vector<char*> args;
    for (std::string& argument : line) args.push_back(argument.data());
    args.push_back(nullptr);
    fs::remove(log_);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    ASSERT_EQ(posix_spawn(&pid_, args[0], &actions, nullptr, args.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  void Start(const std::vector<std::string>& arguments) { Start(arguments, directory_ / "config.toml"); }
  // The exit code; 128 + signal; -1 when it does not end.
  int Wait() {
    int status = 0;
    if (!Eventually(kTimeoutMs, [&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int Run(const std::vector<std::string>& arguments) {
    Start(arguments);
    return Wait();
  }
  std::string Log() const { return Content(log_); }
  size_t Lines(const std::string& kind) const {
    std::istringstream text(Content(out_));
    size_t lines = 0;
    for (std::string line; std::getline(text, line);) lines += line.starts_with("{\"" + kind + "\"") ? 1 : 0;
    return lines;
  }
  bool AwaitLines(const std::string& kind, size_t count) const {
    return Eventually(kTimeoutMs, [&] { return Lines(kind) >= count; });
  }
  ProfileData Profile() const {
    auto data = ReadProfile(out_);
    EXPECT_TRUE(data) << data.error().message();
    return data ? std::move(*data) : ProfileData();
  }
  pid_t WorkerPid(size_t index) const {
    const auto region = Region::Open(name_, Region::Access::kReadOnly, 0);
    return region ? (*region)->worker(WorkerId(index)).pid.load() : -1;
  }
  // Each bucket has its solo times, no group stands twice, and together with the skipped ones none is left out.
  static void ExpectWhole(const ProfileData& data) {
    for (const ModelProfile& model : data.models) {
      for (const BucketProfile& bucket : model.buckets) EXPECT_TRUE(bucket.measured()) << model.name;
    }
    std::set<uint64_t> indices;
    for (const GroupSample& group : data.groups) {
      EXPECT_TRUE(indices.insert(group.index).second) << "group " << group.index << " stands twice";
      EXPECT_GT(group.us, 0);
    }
    EXPECT_EQ(data.next_index(), data.groups.size() + data.skipped);
    EXPECT_THAT(data.warnings, IsEmpty());
  }

  const std::string name_;
  const fs::path directory_;
  const fs::path out_ = directory_ / "x.profile";
  const fs::path log_ = directory_ / "log";
  pid_t pid_ = -1;
};

TEST_F(ProfileProgramTest, MeasuresTheFakeConfigurationAndGoesOn) {
  Start({"--groups", "20", "--repetitions", "1", "--set", "worker.round_timeout_ms=30000"},
        ABACUS_SOURCE_DIR "/configs/fake.toml");
  ASSERT_EQ(Wait(), 0) << Log();
  const ProfileData data = Profile();
  ExpectWhole(data);
  EXPECT_EQ(data.groups.size(), 20u);
  EXPECT_EQ(data.skipped, 0u);
  ASSERT_EQ(data.models.size(), 2u);
  EXPECT_EQ(data.models[0].name, "fake-image");
  EXPECT_EQ(data.models[0].buckets.size(), 4u);
  EXPECT_EQ(data.models[1].buckets.size(), 16u);
  // The fake device takes at least the time of its model's [fake] table.
  const BucketProfile& image = data.models[0].buckets[2];
  EXPECT_EQ(image.operators, 32u);
  EXPECT_GE(image.whole_us(), 6000);
  EXPECT_GE(image.PrefixUs(16), 3000);

  const std::string before = Content(out_);
  Start({"--groups", "25", "--repetitions", "1"}, ABACUS_SOURCE_DIR "/configs/fake.toml");
  ASSERT_EQ(Wait(), 0) << Log();
  EXPECT_THAT(Log(), HasSubstr("20 groups are there"));
  EXPECT_TRUE(Content(out_).starts_with(before)) << "what was measured stays";
  EXPECT_EQ(Lines("solo"), 20u) << "and is not measured again";
  ExpectWhole(Profile());
  EXPECT_EQ(Profile().groups.size(), 25u);
}

TEST_F(ProfileProgramTest, AnInterruptLosesNothing) {
  for (const auto& [kind, signal_number] :
       std::vector<std::pair<std::string, int>>{{"solo", SIGINT}, {"group", SIGINT}, {"group", SIGTERM}}) {
    const size_t there = Lines(kind);
    Start({"--groups", "1000000", "--repetitions", "1"});
    ASSERT_TRUE(AwaitLines(kind, there + 2)) << Log();
    kill(pid_, signal_number);
    EXPECT_EQ(Wait(), 130) << Log();
    EXPECT_THAT(Log(), HasSubstr("run the same command again to go on"));
    EXPECT_THAT(Profile().warnings, IsEmpty()) << "the last line is whole";
  }
  const size_t measured = Lines("group");
  ASSERT_EQ(Run({"--groups", std::to_string(measured + 5)}), 0) << Log();
  ExpectWhole(Profile());
  EXPECT_EQ(Profile().groups.size(), measured + 5);
  EXPECT_EQ(Lines("solo"), 6u);
}

TEST_F(ProfileProgramTest, ADeadWorkerCostsItsGroup) {
  Start({"--groups", "400", "--repetitions", "1", "--set", "worker.round_timeout_ms=30000"});
  ASSERT_TRUE(AwaitLines("group", 3)) << Log();
  const pid_t victim = WorkerPid(1);
  ASSERT_GT(victim, 0);
  kill(victim, SIGKILL);
  ASSERT_EQ(Wait(), 0) << Log();
  const ProfileData data = Profile();
  ExpectWhole(data);
  EXPECT_EQ(data.groups.size(), 400u);
  EXPECT_EQ(data.skipped, 1u) << Log();
  EXPECT_THAT(Log(), HasSubstr("is skipped"));
  EXPECT_THAT(Log(), HasSubstr("400 groups of 2 models on"));
  EXPECT_THAT(Log(), HasSubstr("1 skipped"));
}

TEST_F(ProfileProgramTest, ADeadWorkerDuringSoloTimesIsMeasuredAgain) {
  Start({"--groups", "2", "--repetitions", "50", "--set", "worker.round_timeout_ms=30000"});
  ASSERT_TRUE(AwaitLines("solo", 1)) << Log();
  const pid_t victim = WorkerPid(0);
  ASSERT_GT(victim, 0);
  kill(victim, SIGKILL);
  ASSERT_EQ(Wait(), 0) << Log();
  ExpectWhole(Profile());
  EXPECT_EQ(Lines("solo"), 6u);
}

// Its next process loads longer than a round may take: nobody may count on it meanwhile.
TEST_F(ProfileProgramTest, AHungWorkerCostsItsGroupAndNoOther) {
  WriteModel("text", 6e6);
  Start({"--groups", "400", "--repetitions", "1", "--set", "worker.round_timeout_ms=5000"});
  ASSERT_TRUE(AwaitLines("group", 3)) << Log();
  const pid_t victim = WorkerPid(1);
  ASSERT_GT(victim, 0);
  kill(victim, SIGSTOP);
  ASSERT_EQ(Wait(), 0) << Log();
  const ProfileData data = Profile();
  ExpectWhole(data);
  EXPECT_EQ(data.groups.size(), 400u);
  EXPECT_EQ(data.skipped, 1u) << Log();
  EXPECT_THAT(Log(), HasSubstr("the worker of text"));
  EXPECT_THAT(Log(), testing::Not(HasSubstr("the worker of image"))) << "it only waited for the gate";
}

TEST_F(ProfileProgramTest, AnotherSeedOrSubjectIsRefusedUnlessFresh) {
  ASSERT_EQ(Run({"--groups", "3", "--repetitions", "1"}), 0) << Log();
  const std::string before = Content(out_);
  EXPECT_EQ(Run({"--groups", "5", "--seed", "2"}), 1);
  EXPECT_THAT(Log(), HasSubstr("begun with --seed 1"));
  std::string changed = before;
  changed.replace(changed.find("\"batch\":4"), 9, "\"batch\":5");
  std::ofstream(out_) << changed;
  EXPECT_EQ(Run({"--groups", "5"}), 1);
  EXPECT_THAT(Log(), HasSubstr("of something else"));
  std::ofstream(out_) << "hello\n";
  EXPECT_EQ(Run({"--groups", "5"}), 1);
  EXPECT_THAT(Log(), HasSubstr("not a profile"));
  EXPECT_EQ(Content(out_), "hello\n") << "nothing is overwritten";
  ASSERT_EQ(Run({"--groups", "4", "--repetitions", "1", "--seed", "2", "--fresh"}), 0) << Log();
  ExpectWhole(Profile());
  EXPECT_EQ(Profile().seed, 2u);
  EXPECT_EQ(Profile().groups.size(), 4u);
}

TEST_F(ProfileProgramTest, ACutOffFileGoesOnAfterItsLastWholeLine) {
  ASSERT_EQ(Run({"--groups", "6", "--repetitions", "1"}), 0) << Log();
  const std::string whole = Content(out_);
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  std::ofstream(out_) << whole.substr(0, last + 20);
  ASSERT_EQ(Run({"--groups", "8", "--repetitions", "1"}), 0) << Log();
  EXPECT_THAT(Log(), HasSubstr("cut off"));
  EXPECT_TRUE(Content(out_).starts_with(whole.substr(0, last)));
  ExpectWhole(Profile());
  EXPECT_EQ(Profile().groups.size(), 8u);
}

TEST_F(ProfileProgramTest, RefusesWhatItCannotMeasure) {
  EXPECT_EQ(Run({"--groups", "5", "--set", "worker.nonsense=1"}), 2);
  EXPECT_THAT(Log(), HasSubstr("nonsense"));
  std::ofstream(directory_ / "config.toml", std::ios::app) << "[[service]]\nname = \"again\"\nmodel = \"image.toml\"\n";
  EXPECT_EQ(Run({"--groups", "5"}), 1);
  EXPECT_THAT(Log(), HasSubstr("two services run the model image"));
  std::ofstream(directory_ / "config.toml")
      << "[worker]\ndevice = \"fake\"\n[[service]]\nname = \"image\"\nmodel = \"image.toml\"\n";
  EXPECT_EQ(Run({"--groups", "5"}), 1);
  EXPECT_THAT(Log(), HasSubstr("at least two services"));
  EXPECT_FALSE(fs::exists(out_));
}

}  // namespace
}  // namespace abacus
