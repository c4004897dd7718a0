#include "controller/mps_control.h"

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
    std::ofstream(dir_ / "control") << "#!/bin/sh\nread line\necho \"$line\" >> " << (dir_ / "log").string()
                                    << "\ncase \"$line\" in\n"
                                    << cases << "\nesac\n";
    chmod((dir_ / "control").c_str(), 0700);
  }
  std::string Log() const {
    std::stringstream text;
    text << std::ifstream(dir_ / "log").rdbuf();
    return text.str();
  }
  const std::filesystem::path dir_ = std::filesystem::temp_directory_path() / ("mps-test-" + std::to_string(getpid()));
  const MpsControl control_{(dir_ / "control").string()};
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

}  // namespace
}  // namespace abacus
