// An address in another process: a type of its own, so that it can't be dereferenced by mistake.
#pragma once

#include <compare>
#include <cstdint>

namespace ckpt {

struct RemotePtr {
  uint64_t addr = 0;
  auto operator<=>(const RemotePtr&) const = default;
  RemotePtr operator+(uint64_t n) const { return {addr + n}; }
  RemotePtr operator-(uint64_t n) const { return {addr - n}; }
};

}  // namespace ckpt
