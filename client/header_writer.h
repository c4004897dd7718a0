// Writes the msgpack header of a message: maps whose entries are counted as they are written, and left out where they
// are empty or zero. Part of protocol.cc, and of nothing else.
//
// Thread rule: plain values; a writer belongs to one thread. The string that it appends to outlives it.
#ifndef ABACUS_CLIENT_HEADER_WRITER_H_
#define ABACUS_CLIENT_HEADER_WRITER_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <msgpack.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace abacus::protocol {

struct StringSink {
  std::string* out;
  void write(const char* data, size_t size) { out->append(data, size); }
};

class HeaderWriter {
 public:
  explicit HeaderWriter(std::string* out) : out_(out), sink_{out}, packer_(sink_) {}

  // Calls body(), whose Key() calls are the map's entries: at most 15, so that the count fits the first byte.
  template <class Body>
  void Map(Body body) {
    const size_t first_byte = out_->size();
    const uint32_t outer_keys = std::exchange(keys_, 0);
    packer_.pack_map(0);
    body();
    (*out_)[first_byte] = static_cast<char>(0x80 | keys_);
    keys_ = outer_keys;
  }
  HeaderWriter& Key(std::string_view key) {
    ++keys_;
    String(key);
    return *this;
  }
  template <class Range, class WriteOne>
  void Array(const Range& range, WriteOne write_one) {
    packer_.pack_array(static_cast<uint32_t>(range.size()));
    for (const auto& entry : range) write_one(entry);
  }
  void Unsigned(uint64_t number) { packer_.pack_uint64(number); }
  void Signed(int64_t number) { packer_.pack_int64(number); }
  // Always as a float of 64 bits: the packer makes integers of whole numbers.
  void Real(double number) {
    out_->push_back('\xcb');
    for (int shift = 56; shift >= 0; shift -= 8) {
      out_->push_back(static_cast<char>(std::bit_cast<uint64_t>(number) >> shift));
    }
  }
  void True() { packer_.pack_true(); }
  void False() { packer_.pack_false(); }
  void String(std::string_view text) {
    packer_.pack_str(static_cast<uint32_t>(text.size()));
    packer_.pack_str_body(text.data(), static_cast<uint32_t>(text.size()));
  }
  // Optional entries: left out when empty or zero.
  void MaybeUnsigned(std::string_view key, uint64_t number) {
    if (number != 0) Key(key).Unsigned(number);
  }
  void MaybeString(std::string_view key, std::string_view text) {
    if (!text.empty()) Key(key).String(text);
  }
  template <class Range, class WriteOne>
  void MaybeArray(std::string_view key, const Range& range, WriteOne write_one) {
    if (!range.empty()) Key(key).Array(range, write_one);
  }

 private:
  std::string* out_;
  StringSink sink_;
  msgpack::packer<StringSink> packer_;
  uint32_t keys_ = 0;  // of the map being written
};

}  // namespace abacus::protocol

#endif  // ABACUS_CLIENT_HEADER_WRITER_H_
