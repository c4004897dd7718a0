#include "controller/workers/mps_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace abacus {
namespace {

// A stand-in for nvidia-cuda-mps-control that answers from a table and writes down what it was told.
class MpsControlTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_);
    Script(
        "get_server_list) echo 100; echo 200;;\n"
        "get_client_list*100) printf '1001\\n1002\\n';;\n"
        "get_client_list*200) echo 2001;;\n"
        "terminate_client*) echo 0;;");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Script(const std::string& cases) {
    std::ofstream(dir_ / "control") << "#!/bin/sh\nread line\necho \"$line at $CUDA_MPS_PIPE_DIRECTORY\" >> "
                                    << (dir_ / "log").string() << "\ncase \"$line\" in\n"
                                    << cases << "\nesac\n";
    chmod((dir_ / "control").c_str(), 0700);
  }
  std::string Log() const {
    std::stringstream text;
    text << std::ifstream(dir_ / "log").rdbuf();
    return text.str();
  }
  const std::filesystem::path dir_ = std::filesystem::temp_directory_path() / ("mps-test-" + std::to_string(getpid()));
  const MpsControl control_{{}, (dir_ / "control").string()};
};

TEST_F(MpsControlTest, ListsTheClientsOfEveryServer) {
  const auto clients = control_.Clients();
  ASSERT_TRUE(clients) << clients.error().message();
  ASSERT_EQ(clients->size(), 3u);
  EXPECT_EQ((*clients)[2].server, 200);
  EXPECT_EQ((*clients)[2].pid, 2001);
  EXPECT_TRUE(control_.IsClient(1002).value());
  EXPECT_FALSE(control_.IsClient(100).value()) << "a server is no client";
}

TEST_F(MpsControlTest, TerminatesAClientThroughItsServer) {
  EXPECT_TRUE(control_.Terminate(2001).ok());
  EXPECT_NE(Log().find("terminate_client 200 2001"), std::string::npos);
}

TEST_F(MpsControlTest, AnUnlistedProcessNeedsNoTermination) {
  EXPECT_TRUE(control_.Terminate(4242).ok());
  EXPECT_EQ(Log().find("terminate_client"), std::string::npos);
}

TEST_F(MpsControlTest, AnUnreachableDaemonIsAnErrorNotANo) {
  Script("*) echo 'Cannot find MPS control daemon process'; exit 1;;");
  EXPECT_FALSE(control_.IsClient(1001));
  Script("*) echo 'Cannot find MPS control daemon process';;");  // some versions exit with 0
  const auto attached = control_.IsClient(1001);
  ASSERT_FALSE(attached);
  EXPECT_NE(attached.error().message().find("Cannot find MPS"), std::string::npos);
}

TEST_F(MpsControlTest, ADaemonOfOneGpuIsAskedAtItsOwnPipe) {
  const MpsControl lane(dir_ / "mps-1", (dir_ / "control").string());
  EXPECT_TRUE(lane.IsClient(2001).value());
  EXPECT_NE(Log().find("get_server_list at " + (dir_ / "mps-1/pipe").string() + "\n"), std::string::npos) << Log();
  EXPECT_THAT(lane.environment(), testing::ElementsAre("CUDA_MPS_PIPE_DIRECTORY=" + (dir_ / "mps-1/pipe").string(),
                                                       "CUDA_MPS_LOG_DIRECTORY=" + (dir_ / "mps-1/log").string()));
  EXPECT_TRUE(lane.has_one_gpu());
  EXPECT_THAT(control_.environment(), testing::IsEmpty()) << "the environment names it already";
  EXPECT_FALSE(control_.has_one_gpu());
}

class FindMpsDaemonsTest : public MpsControlTest {
 protected:
  void Own(const std::string& folder) {
    std::filesystem::create_directories(dir_ / folder / "pipe");
    std::ofstream(dir_ / folder / "owned");
  }
  // Folders of the daemons that were found, as lanes' workers are told; "" for the environment's.
  std::vector<std::string> Pipes(size_t lanes) const {
    std::vector<std::string> pipes;
    for (const auto& daemon : FindMpsDaemons(dir_, lanes)) {
      pipes.push_back(daemon->has_one_gpu() ? daemon->environment().at(0) : "");
    }
    return pipes;
  }
  std::string Pipe(const std::string& folder) const {
    return "CUDA_MPS_PIPE_DIRECTORY=" + (dir_ / folder / "pipe").string();
  }
};

TEST_F(FindMpsDaemonsTest, OneGpuHasItInMps) {
  EXPECT_THAT(Pipes(1), testing::ElementsAre(""));
  Own("mps-0");
  EXPECT_THAT(Pipes(1), testing::ElementsAre("")) << "a folder of another start";
  Own("mps");
  EXPECT_THAT(Pipes(1), testing::ElementsAre(Pipe("mps")));
}

TEST_F(FindMpsDaemonsTest, WithoutAFolderTheEnvironmentNamesIt) {
  const auto daemons = FindMpsDaemons({}, 2);
  ASSERT_EQ(daemons.size(), 2u);
  for (const auto& daemon : daemons) EXPECT_FALSE(daemon->has_one_gpu());
}

TEST_F(FindMpsDaemonsTest, SeveralHaveTheirsByLane) {
  Own("mps");
  Own("mps-1");
  std::filesystem::create_directories(dir_ / "mps-0/pipe");
  EXPECT_THAT(Pipes(3), testing::ElementsAre("", Pipe("mps-1"), "")) << "without `owned` it is of an earlier start";
}

}  // namespace
}  // namespace abacus
