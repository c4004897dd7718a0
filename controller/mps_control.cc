#include "controller/mps_control.h"

#include <charconv>
#include <sstream>

#include "controller/subprocess.h"
#include "shm/clock.h"

namespace abacus {
namespace {

constexpr uint64_t kAnswerTimeoutNs = 3 * kNsPerSecond;

}  // namespace

Result<std::vector<pid_t>> MpsControl::AskPids(const std::string& question) const {
  const auto answer = RunCommand({command_}, question + "\n", kAnswerTimeoutNs);
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
    const auto answer = RunCommand({command_}, command + "\n", kAnswerTimeoutNs);
    if (!answer) return answer.error().WithContext(command);
  }
  return Status::Ok();
}

}  // namespace abacus
