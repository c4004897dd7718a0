#include "base/status.h"

#include <gtest/gtest.h>

#include <set>

namespace abacus {
namespace {

TEST(StatusCode, EachHasANameOfItsOwn) {
  EXPECT_EQ(kStatusCodeNames.size(), static_cast<size_t>(StatusCode::kAlreadyExists) + 1);
  EXPECT_EQ(std::set(kStatusCodeNames.begin(), kStatusCodeNames.end()).size(), kStatusCodeNames.size());
  EXPECT_EQ(StatusCodeName(StatusCode::kOk), "OK");
  EXPECT_EQ(StatusCodeName(StatusCode::kInternal), "INTERNAL");
  EXPECT_EQ(StatusCodeName(StatusCode::kCancelled), "CANCELLED");
  EXPECT_EQ(StatusCodeName(StatusCode::kTimeout), "TIMEOUT");
  EXPECT_EQ(StatusCodeName(StatusCode::kAlreadyExists), "ALREADY_EXISTS");
  EXPECT_EQ(StatusCodeName(static_cast<StatusCode>(200)), "INTERNAL") << "a number that is none";
}

TEST(StatusCode, ThoseOfOneProcessDoNotTravel) {
  EXPECT_LT(static_cast<size_t>(StatusCode::kCancelled), kWireStatusCount);
  for (const StatusCode local :
       {StatusCode::kTimeout, StatusCode::kUnavailable, StatusCode::kNotFound, StatusCode::kAlreadyExists}) {
    EXPECT_GE(static_cast<size_t>(local), kWireStatusCount) << StatusCodeName(local);
  }
}

}  // namespace
}  // namespace abacus
