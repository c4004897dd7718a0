// A front end whose models take tensors that are large enough to be copied by other threads.
#ifndef ABACUS_TESTS_CONTROLLER_INTAKE_PAYLOAD_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_INTAKE_PAYLOAD_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>

#include "tests/controller/intake/front_end_fixture.h"

namespace abacus {

inline constexpr int64_t kWide = 8192;  // elements of a row
inline constexpr uint64_t kRowBytes = kWide * 4;

// Model image: float32 [batch, kWide] in and out; text: int32 of 0 to 9 the same way. The parameter: intake threads.
class PayloadFixture : public FrontEndTest, public testing::WithParamInterface<int> {
 protected:
  PayloadFixture() {
    server_.intake_threads = GetParam();
    ModelSpec image = test::ImageSpec();
    image.inputs[0].dims = image.outputs[0].dims = Shape{kBatchDim, kWide};
    image_ = MakeService(0, 3, image);
    ModelSpec codes = image;
    codes.name = "text";
    codes.inputs[0].dtype = codes.outputs[0].dtype = DType::kInt32;
    codes.inputs[0].range = IntRange{0, 9};
    text_ = MakeService(1, 2, codes);
  }
  ~PayloadFixture() override { Stop(); }

  static protocol::Request Wide(uint64_t id, int64_t rows = 1) {
    protocol::Request request = ImageQuery(id, rows);
    request.inputs[0].shape = Shape{rows, kWide};
    return request;
  }
  static protocol::Request Codes(uint64_t id) {
    protocol::Request request = Wide(id);
    request.model = "text";
    request.inputs[0].dtype = DType::kInt32;
    return request;
  }
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_INTAKE_PAYLOAD_FIXTURE_H_
