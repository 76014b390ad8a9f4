// What every fuzz target does: hand the input to a parser, of which only an Error with a reason is a right
// refusal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/base/error.h"

namespace ckpt::fuzz {

template <typename Parser>
int refuse_or_accept(const uint8_t* data, size_t size, const Parser& parser) {
  try {
    parser(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const Error& e) {
    if (e.err() <= 0 || e.sentence().empty()) std::abort();
  }
  return 0;
}

}  // namespace ckpt::fuzz
