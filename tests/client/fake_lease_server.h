// FakeLeaseServer: the server's side of the lease socket in the test's own process. It grants what is asked for, or
// answers as the test says.
//
// Thread rule: any thread. The answer runs on the server's thread.
#ifndef ABACUS_TESTS_CLIENT_FAKE_LEASE_SERVER_H_
#define ABACUS_TESTS_CLIENT_FAKE_LEASE_SERVER_H_

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace abacus {

class FakeLeaseServer {
 public:
  static constexpr int kAllSeals = -1;

  // What is sent, and with which descriptors, which the server closes then.
  struct Answer {
    std::vector<std::byte> bytes;
    std::vector<int> descriptors;
    bool close = false;  // the connection at once
  };
  using Answerer = std::function<Answer(uint64_t wanted)>;

  explicit FakeLeaseServer(Answerer answerer = {});
  ~FakeLeaseServer();
  FakeLeaseServer(const FakeLeaseServer&) = delete;
  FakeLeaseServer& operator=(const FakeLeaseServer&) = delete;

  // An answer with these numbers; and a memfd of a lease, with other seals where the test wants them.
  static std::vector<std::byte> Numbers(uint64_t status, uint64_t region, uint64_t bytes);
  static int Memory(uint64_t bytes, int seals = kAllSeals);

  const std::string& path() const { return path_; }
  // The server's mapping of a lease that is held; empty: there is none.
  std::span<std::byte> Region(uint64_t id) const;
  // Blocks until so many leases are held; false: not soon.
  bool WaitForLeases(size_t count) const;
  // Ends all connections, as a server that goes away.
  void EndLeases();

 private:
  struct Lease {
    int fd = -1;
    uint64_t id = 0;
    std::span<std::byte> bytes;
  };

  void Run();
  void Accept();
  void Grant(int fd, uint64_t wanted);
  void End(Lease* lease);  // REQUIRES: mutex_ held

  const Answerer answerer_;
  std::string path_;
  int listener_ = -1;
  std::array<int, 2> stop_ = {-1, -1};  // a pipe
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Lease> leases_;  // guarded by mutex_
  uint64_t next_id_ = 0x8000'0000'0000'0001;
  std::thread thread_;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CLIENT_FAKE_LEASE_SERVER_H_
