#include "base/endpoint.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <string_view>

namespace abacus {
namespace {

constexpr std::string_view kTcp = "tcp://";

struct Tcp {
  std::string host;  // with its brackets
  std::string port;
};

Result<Tcp> Split(const std::string& endpoint) {
  const std::string_view rest = std::string_view(endpoint).substr(kTcp.size());
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == rest.size()) {
    return Error(StatusCode::kInvalidArgument, "'" + endpoint + "': an address looks like tcp://host:5570");
  }
  return Tcp{std::string(rest.substr(0, colon)), std::string(rest.substr(colon + 1))};
}

bool IsIpv4(const std::string& host) {
  in_addr address{};
  return inet_pton(AF_INET, host.c_str(), &address) == 1;
}

// The first address of a name, as text: of IPv4 where there is one, else of IPv6, in brackets.
Result<std::string> Resolve(const std::string& endpoint, const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) {
    return Error(StatusCode::kUnavailable,
                 "'" + endpoint + "': host '" + host + "' has no address: " + gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
      if (entry->ai_family != family) continue;
      std::array<char, NI_MAXHOST> text{};
      if (getnameinfo(entry->ai_addr, entry->ai_addrlen, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
        continue;
      }
      return family == AF_INET ? std::string(text.data()) : "[" + std::string(text.data()) + "]";
    }
  }
  return Error(StatusCode::kUnavailable, "'" + endpoint + "': host '" + host + "' has no IPv4 or IPv6 address");
}

}  // namespace

Result<std::string> BindAddress(const std::string& endpoint) {
  if (!endpoint.starts_with(kTcp)) return endpoint;
  const Result<Tcp> tcp = Split(endpoint);
  if (!tcp) return Error(tcp.error());
  if (tcp->host == "*" || tcp->host.starts_with('[') || IsIpv4(tcp->host) || if_nametoindex(tcp->host.c_str()) != 0) {
    return endpoint;
  }
  const Result<std::string> address = Resolve(endpoint, tcp->host);
  if (!address) return Error(address.error());
  return std::string(kTcp) + *address + ":" + tcp->port;
}

Result<bool> NeedsIpv6(const std::string& endpoint) {
  if (!endpoint.starts_with(kTcp)) return false;
  const Result<Tcp> tcp = Split(endpoint);
  if (!tcp) return Error(tcp.error());
  if (tcp->host.starts_with('[')) return true;
  if (tcp->host == "*" || IsIpv4(tcp->host)) return false;
  const Result<std::string> address = Resolve(endpoint, tcp->host);
  if (!address) return Error(address.error());
  return address->starts_with('[');
}

}  // namespace abacus
