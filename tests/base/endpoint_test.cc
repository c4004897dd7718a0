#include "base/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace abacus {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST(EndpointTest, AddressesInterfacesAndOtherTransportsStay) {
  for (const std::string endpoint : {"tcp://127.0.0.1:5570", "tcp://*:5570", "tcp://[::1]:*", "tcp://0.0.0.0:0",
                                     "tcp://lo:5570", "ipc:///tmp/x y", "inproc://localhost"}) {
    EXPECT_EQ(BindAddress(endpoint).value(), endpoint);
  }
}

TEST(EndpointTest, NamesBecomeAddresses) {
  EXPECT_THAT(BindAddress("tcp://localhost:5570").value(), AnyOf("tcp://127.0.0.1:5570", "tcp://[::1]:5570"));
  EXPECT_THAT(BindAddress("tcp://localhost:*").value(), AnyOf("tcp://127.0.0.1:*", "tcp://[::1]:*"));
}

TEST(EndpointTest, ServerAndClientAgreeOnTheFamilyOfAName) {
  const bool bound_to_ipv6 = BindAddress("tcp://localhost:1").value().find('[') != std::string::npos;
  EXPECT_EQ(NeedsIpv6("tcp://localhost:1").value(), bound_to_ipv6);
  EXPECT_TRUE(NeedsIpv6("tcp://[::1]:5570").value());
  EXPECT_FALSE(NeedsIpv6("tcp://127.0.0.1:5570").value());
  EXPECT_FALSE(NeedsIpv6("ipc:///tmp/[x]").value());
}

TEST(EndpointTest, UnknownNamesAndOtherTextsAreErrorsThatNameThem) {
  const auto unknown = BindAddress("tcp://nowhere.invalid:5570");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(unknown.error().message(), HasSubstr("'nowhere.invalid'"));
  EXPECT_EQ(NeedsIpv6("tcp://nowhere.invalid:5570").error().code(), StatusCode::kUnavailable);
  for (const std::string endpoint : {"tcp://", "tcp://host", "tcp://:5570", "tcp://host:"}) {
    EXPECT_EQ(BindAddress(endpoint).error().code(), StatusCode::kInvalidArgument) << endpoint;
    EXPECT_THAT(NeedsIpv6(endpoint).error().message(), HasSubstr("'" + endpoint + "'"));
  }
}

}  // namespace
}  // namespace abacus
