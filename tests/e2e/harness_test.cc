// The harness itself: a controller that ends badly, or whose log has a sanitizer's report, is complained about. Shell
// scripts play the controllers.
#include "tests/e2e/harness.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace abacus::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class HarnessTest : public testing::Test {
 protected:
  HarnessTest() { fs::create_directories(dir_); }
  ~HarnessTest() override { fs::remove_all(dir_); }

  // Runs a "controller" until it ends by itself or, without `ends`, is stopped; what the harness has to say about it.
  std::string ComplaintOf(const std::string& script, bool ends = true, int signal_number = 0) {
    std::ofstream(dir_ / "abacus-controller") << "#!/bin/sh\n" << script << "\n";
    chmod((dir_ / "abacus-controller").c_str(), 0700);
    std::string said;
    ControllerProcess::Options options;
    options.bin_dir = dir_;
    options.wait_ready = false;
    options.on_complaint = [&](const std::string& complaint) { said = complaint; };
    {
      ControllerProcess controller(options);
      EXPECT_EQ(controller.error(), "");
      // "up" says that a script has come so far that a signal finds what it should.
      if (!ends) Eventually(kPatienceMs, [&] { return controller.Log().find("up\n") != std::string::npos; });
      if (signal_number != 0) controller.Signal(signal_number);
      if (ends || signal_number != 0) controller.WaitExit(30);
    }
    return said;
  }

  const fs::path dir_ = fs::temp_directory_path() / ("harness-test-" + std::to_string(getpid()));
};

TEST_F(HarnessTest, AGoodEndIsNoComplaint) {
  EXPECT_EQ(ComplaintOf("echo all is well >&2; exit 0"), "");
  EXPECT_EQ(ComplaintOf("trap 'exit 0' TERM; echo up >&2; while :; do sleep 0.05; done", false), "");
  EXPECT_EQ(ComplaintOf("echo up >&2; exec sleep 600", false, SIGKILL), "") << "the test wanted it";
}

TEST_F(HarnessTest, ABadEndIsOne) {
  EXPECT_THAT(ComplaintOf("echo its last words >&2; exit 66"), HasSubstr("exited with code 66"));
  EXPECT_THAT(ComplaintOf("echo its last words >&2; exit 66"), HasSubstr("its last words"));
  EXPECT_THAT(ComplaintOf("kill -SEGV $$"), HasSubstr("killed by signal 11"));
  EXPECT_THAT(ComplaintOf("kill -KILL $$"), HasSubstr("killed by signal 9")) << "nobody sent it";
  EXPECT_THAT(ComplaintOf("echo up >&2; exec sleep 600", false), HasSubstr("killed by signal 15")) << "did not drain";
}

TEST_F(HarnessTest, ASanitizersReportIsOneHoweverItEnds) {
  for (const char* report : {"WARNING: ThreadSanitizer: data race (pid=1)", "==1==ERROR: AddressSanitizer: heap-use",
                             "==1==ERROR: LeakSanitizer: detected memory leaks", "a.cc:1:2: runtime error: overflow"}) {
    const std::string complaint = ComplaintOf("echo '" + std::string(report) + "' >&2; echo more >&2; exit 0");
    EXPECT_THAT(complaint, HasSubstr("a sanitizer's report")) << report;
    EXPECT_THAT(complaint, HasSubstr(std::string(report) + "\nmore\n"));
  }
  EXPECT_EQ(ComplaintOf("echo 'ThreadSanitizer: Matched 3 \"race\" suppressions (pid=1):' >&2"), "");
}

TEST_F(HarnessTest, ReportsOfChildrenAreSeen) {
  EXPECT_THAT(ComplaintOf("sh -c 'echo WARNING: ThreadSanitizer: data race >&2'; exit 0"),
              HasSubstr("a sanitizer's report"));
}

TEST_F(HarnessTest, SanitizersGetTheOptionsOfTheTest) {
  const char* const options = getenv("TSAN_OPTIONS");
  EXPECT_THAT(ComplaintOf("echo \"options: $TSAN_OPTIONS.\" >&2; exit 1"),
              HasSubstr("options: " + std::string(options != nullptr ? options : "") + "."));
}

}  // namespace
}  // namespace abacus::test
