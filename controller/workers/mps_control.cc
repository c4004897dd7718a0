#include "controller/workers/mps_control.h"

#include <charconv>
#include <sstream>

#include "base/clock.h"
#include "controller/workers/subprocess.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kAnswerTimeoutNs = 3 * kNsPerSecond;

}  // namespace

std::vector<std::string> MpsControl::environment() const {
  if (folder_.empty()) return {};
  return {"CUDA_MPS_PIPE_DIRECTORY=" + (folder_ / "pipe").string(),
          "CUDA_MPS_LOG_DIRECTORY=" + (folder_ / "log").string()};
}

Result<std::string> MpsControl::Ask(const std::string& question) const {
  return RunCommand({command_}, question + "\n", kAnswerTimeoutNs, environment());
}

Result<std::vector<pid_t>> MpsControl::AskPids(const std::string& question) const {
  const auto answer = Ask(question);
  if (!answer) return Error(answer.error().WithContext("asking the CUDA MPS daemon '" + question + "'"));
  std::vector<pid_t> pids;
  std::istringstream lines(*answer);
  for (std::string word; lines >> word;) {
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), pid);
    if (error != std::errc() || end != word.data() + word.size()) {
      return Error(StatusCode::kUnavailable, "the CUDA MPS daemon answered '" + question + "' with: " + *answer);
    }
    pids.push_back(pid);
  }
  return pids;
}

Result<std::vector<MpsControl::Client>> MpsControl::Clients() const {
  const auto servers = AskPids("get_server_list");
  if (!servers) return Error(servers.error());
  std::vector<Client> clients;
  for (const pid_t server : *servers) {
    const auto pids = AskPids("get_client_list " + std::to_string(server));
    if (!pids) return Error(pids.error());
    for (const pid_t pid : *pids) clients.push_back({server, pid});
  }
  return clients;
}

Result<bool> MpsControl::IsClient(pid_t pid) const {
  const auto clients = Clients();
  if (!clients) return Error(clients.error());
  for (const Client& client : *clients) {
    if (client.pid == pid) return true;
  }
  return false;
}

Status MpsControl::Terminate(pid_t pid) const {
  const auto clients = Clients();
  if (!clients) return clients.error();
  for (const Client& client : *clients) {
    if (client.pid != pid) continue;
    const std::string command = "terminate_client " + std::to_string(client.server) + " " + std::to_string(pid);
    const auto answer = Ask(command);
    if (!answer) return answer.error().WithContext(command);
  }
  return Status::Ok();
}

std::vector<std::unique_ptr<MpsDaemon>> FindMpsDaemons(const fs::path& controller_folder, size_t lanes) {
  std::vector<std::unique_ptr<MpsDaemon>> daemons;
  for (size_t lane = 0; lane < lanes; ++lane) {
    const fs::path folder = controller_folder / (lanes == 1 ? "mps" : "mps-" + std::to_string(lane));
    std::error_code error;
    const bool ours = !controller_folder.empty() && fs::exists(folder / "owned", error);
    daemons.push_back(std::make_unique<MpsControl>(ours ? folder : fs::path()));
  }
  return daemons;
}

}  // namespace abacus
