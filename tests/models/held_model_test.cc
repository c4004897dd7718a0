#include "models/held_model.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "base/digest.h"
#include "base/file.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class HeldModelTest : public testing::Test {
 protected:
  HeldModelTest() {
    fs::create_directories(folder_);
    Write("m.pt", "the weights");
    Write("ops.so", "operators");
    Describe();
  }
  ~HeldModelTest() override { fs::remove_all(folder_); }

  // In place: what has the file open sees it.
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  // As the exporter does.
  void Replace(const std::string& name, const std::string& content) const {
    ASSERT_TRUE(WriteWholeFile(folder_ / name, content).ok());
  }
  void Describe(int64_t batch = 4) {
    Write("m.toml",
          "name = \"m\"\nfile = \"m.pt\"\n[[inputs]]\nname = \"x\"\ndtype = \"float32\"\nshape = [\"batch\"]\n"
          "[[outputs]]\nname = \"y\"\ndtype = \"float32\"\nshape = [\"batch\"]\n[buckets]\nbatch = [" +
              std::to_string(batch) + "]\n[[libraries]]\nfile = \"ops.so\"\nsha256 = \"" + Sha256Hex("operators") +
              "\"\n");
  }
  ModelSpec Spec() const {
    auto spec = LoadModelSpec(toml());
    EXPECT_TRUE(spec) << spec.error().message();
    return *spec;
  }
  HeldModelPtr Hold(bool need_file = true) const {
    auto held = HeldModel::Open(Spec(), need_file);
    EXPECT_TRUE(held) << held.error().message();
    return held ? *held : nullptr;
  }
  Status Refusal(bool need_file = true) const {
    const auto held = HeldModel::Open(Spec(), need_file);
    return held ? Status::Ok() : held.error();
  }
  fs::path toml() const { return folder_ / "m.toml"; }

  // What a worker process with these descriptors does, in a process of its own. "": `act` returned nothing.
  static std::string InWorker(const HeldModel& held, const std::function<std::string()>& act) {
    int pipe_fds[2];
    EXPECT_EQ(pipe(pipe_fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      const int out = fcntl(pipe_fds[1], F_DUPFD, 200);  // the pipe may lie where the model is to go
      std::vector<int> copies;
      for (const int fd : held.descriptors()) copies.push_back(fcntl(fd, F_DUPFD, 100));
      for (size_t i = 0; i < copies.size(); ++i) dup2(copies[i], kFirstHeldDescriptor + static_cast<int>(i));
      const std::string text = act();
      _exit(write(out, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
    }
    close(pipe_fds[1]);
    std::string text;
    char piece[512];
    for (ssize_t got; (got = read(pipe_fds[0], piece, sizeof(piece))) > 0;)
      text.append(piece, static_cast<size_t>(got));
    close(pipe_fds[0]);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return text;
  }
  // What the worker reads of the model and of its library, or why it refuses.
  std::string Taken(const HeldModel& held, bool need_file = true) const {
    return InWorker(held, [&]() -> std::string {
      const auto taken = TakeHeldModel(toml(), held.digest(), need_file);
      if (!taken) return taken.error().ToString();
      const ModelSpec& spec = taken->spec();
      std::string text = "batch " + std::to_string(spec.batch_sizes[0]);
      if (!need_file) return text;
      for (const fs::path& path : {spec.open_path, spec.libraries[0].open_path}) {
        text += ", " + ReadWholeFile(path).value_or("unreadable");
      }
      return text;
    });
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / ("held-model-" + std::to_string(getpid()));
};

TEST_F(HeldModelTest, TheDigestIsOfDescriptionModelAndLibraries) {
  const std::string first = Hold()->digest();
  EXPECT_EQ(first.size(), kDigestHexBytes);
  EXPECT_EQ(Hold()->digest(), first);
  Describe(8);
  const std::string other_text = Hold()->digest();
  EXPECT_NE(other_text, first);
  Describe();
  Write("m.pt", "the weightS");
  EXPECT_NE(Hold()->digest(), first);
  Write("m.pt", "the weights");
  EXPECT_EQ(Hold()->digest(), first);
}

TEST_F(HeldModelTest, AWorkerGetsWhatWasHeldThoughTheFilesAreReplaced) {
  const HeldModelPtr held = Hold();
  EXPECT_EQ(held->descriptors().size(), 3u);
  Replace("m.pt", "other weights");
  Replace("ops.so", "other operators");
  Replace("m.toml", "nonsense");
  EXPECT_EQ(Taken(*held), "batch 4, the weights, operators");
  fs::remove_all(folder_);
  EXPECT_EQ(Taken(*held), "batch 4, the weights, operators");
}

TEST_F(HeldModelTest, AModelFileThatIsChangedInPlaceIsRefused) {
  const HeldModelPtr held = Hold();
  Write("m.pt", "the weightS");  // of the same length
  EXPECT_THAT(Taken(*held), AllOf(HasSubstr("INVALID_ARGUMENT: "), HasSubstr((folder_ / "m.pt").string()),
                                  HasSubstr("changed in place"), HasSubstr("Restart the controller")));
  Write("m.pt", "the weights");
  EXPECT_EQ(Taken(*held), "batch 4, the weights, operators");
}

TEST_F(HeldModelTest, DescriptionAndLibrariesCannotBeChangedAtAll) {
  const HeldModelPtr held = Hold();
  Describe(8);
  Write("ops.so", "OPERATORS");
  EXPECT_EQ(Taken(*held), "batch 4, the weights, operators");
  for (const size_t i : {0, 2}) {
    EXPECT_EQ(pwrite(held->descriptors()[i], "x", 1, 0), -1) << i;
    EXPECT_EQ(ftruncate(held->descriptors()[i], 0), -1) << i;
  }
}

TEST_F(HeldModelTest, AnotherDigestIsRefused) {
  const HeldModelPtr held = Hold();
  const std::string refusal = InWorker(*held, [&] {
    const auto taken = TakeHeldModel(toml(), Sha256Hex("another"), true);
    return taken ? "taken" : std::string(StatusCodeName(taken.error().code()));
  });
  EXPECT_EQ(refusal, "INVALID_ARGUMENT");
}

TEST_F(HeldModelTest, AChangeWhileTheModelWasLoadedIsSeen) {
  const HeldModelPtr held = Hold();
  const auto after = [&](const std::function<void()>& change) {
    return InWorker(*held, [&]() -> std::string {
      const auto taken = TakeHeldModel(toml(), held->digest(), true);
      if (!taken) return taken.error().ToString();
      change();
      return taken->CheckUnchanged().ToString();
    });
  };
  EXPECT_EQ(after([] {}), "OK");
  EXPECT_EQ(after([&] { Replace("m.pt", "other weights"); }), "OK") << "the old one only lost its name";
  Write("m.pt", "the weights");
  const HeldModelPtr again = Hold();
  const std::string changed = InWorker(*again, [&] {
    const auto taken = TakeHeldModel(toml(), again->digest(), true);
    Write("m.pt", "the weightS");
    return taken->CheckUnchanged().ToString();
  });
  EXPECT_THAT(changed, AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("m.pt"), HasSubstr("changed in place")));
}

TEST_F(HeldModelTest, SaysWhichFileIsMissingOrWrong) {
  fs::remove(folder_ / "m.pt");
  Status refusal = Refusal();
  EXPECT_EQ(refusal.code(), StatusCode::kNotFound);
  EXPECT_THAT(refusal.message(),
              AllOf(HasSubstr("m.pt: the model file cannot be opened (No such file"), HasSubstr("export the model")));
  fs::create_directory(folder_ / "m.pt");
  refusal = Refusal();
  EXPECT_EQ(refusal.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refusal.message(), HasSubstr("m.pt: is not a file"));
  fs::remove(folder_ / "m.pt");
  Write("m.pt", "the weights");
  Write("ops.so", "other operators");
  refusal = Refusal();
  EXPECT_EQ(refusal.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refusal.message(), AllOf(HasSubstr("ops.so: is not the operator library"), HasSubstr("m.toml")));
  fs::remove(folder_ / "ops.so");
  refusal = Refusal();
  EXPECT_EQ(refusal.code(), StatusCode::kNotFound);
  EXPECT_THAT(refusal.message(), HasSubstr("ops.so"));
}

TEST_F(HeldModelTest, WorkersThatRunNoModelNeedTheDescriptionOnly) {
  fs::remove(folder_ / "m.pt");
  fs::remove(folder_ / "ops.so");
  const HeldModelPtr held = Hold(/*need_file=*/false);
  ASSERT_NE(held, nullptr);
  EXPECT_EQ(held->descriptors().size(), 1u);
  Describe(8);
  EXPECT_EQ(Taken(*held, /*need_file=*/false), "batch 4");
  EXPECT_NE(Hold(/*need_file=*/false)->digest(), held->digest());
}

TEST_F(HeldModelTest, ClosesWhatItHeld) {
  const std::vector<int> descriptors = Hold()->descriptors();
  for (const int fd : descriptors) EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

}  // namespace
}  // namespace abacus
