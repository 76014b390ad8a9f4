// Fields of the "Name:\tvalue" files of /proc (status, fdinfo).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ckpt {

/// Value of the first line "name:", without leading blanks; empty where there is none.
std::string status_field(std::string_view text, std::string_view name);

/// The same of a mask in hexadecimal without 0x, as those of signals are; 0 where there is none.
uint64_t status_mask(std::string_view text, std::string_view name);

}  // namespace ckpt
