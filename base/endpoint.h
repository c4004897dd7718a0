// Hosts in ZeroMQ endpoints. ZeroMQ looks a name up as IPv4 or as IPv6, as its socket is set, and binds to addresses
// and interfaces only; these functions let names and both families work. IPv4 goes first where a name has both, so that
// a server and a client that use the same name meet.
//
// Thread rule: free functions; they may ask a name server and so take seconds. Other transports than tcp:// pass
// through. Errors: INVALID_ARGUMENT for what is no tcp://HOST:PORT, UNAVAILABLE for a name without an address.
#ifndef ABACUS_BASE_ENDPOINT_H_
#define ABACUS_BASE_ENDPOINT_H_

#include <string>

#include "base/status.h"

namespace abacus {

// What to bind to: a host name is replaced by its address; "*", addresses and interfaces stay.
Result<std::string> BindAddress(const std::string& endpoint);

// Whether a socket that connects or binds to `endpoint` needs ZMQ_IPV6: its host is an IPv6 address in brackets, or a
// name that has no IPv4 address.
Result<bool> NeedsIpv6(const std::string& endpoint);

}  // namespace abacus

#endif  // ABACUS_BASE_ENDPOINT_H_
