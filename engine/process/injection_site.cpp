#include "engine/process/injection_site.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr std::string_view kSyscallRet("\x0f\x05\xc3", 3);
constexpr std::string_view kSyscall("\x0f\x05", 2);
constexpr std::string_view kStore("\x48\x89\x03\x5b\xc3", 5);
// As assemblers write rt_sigreturn: mov $15, %rax with a sign-extended immediate, or mov $15, %eax.
constexpr std::array<std::string_view, 2> kRestorers = {std::string_view("\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9),
                                                        std::string_view("\xb8\x0f\0\0\0\x0f\x05", 7)};

bool holds(pid_t pid, RemotePtr at, std::string_view code) {
  std::array<char, 16> bytes{};
  const iovec local = {bytes.data(), code.size()};
  const iovec remote = {reinterpret_cast<void*>(at.addr), code.size()};
  return ::process_vm_readv(pid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(code.size()) &&
         std::string_view(bytes.data(), code.size()) == code;
}

bool holds_restorer(pid_t pid, RemotePtr at) {
  return std::any_of(kRestorers.begin(), kRestorers.end(), [&](auto code) { return holds(pid, at, code); });
}

/// What a mapped file has, as offsets into the mapping; -1 for nothing.
struct Found {
  int64_t syscall_ret = -1, restorer = -1, bare_syscall = -1, store = -1;
};

Found search(pid_t pid, const Mapping& m) {
  Found found;
  constexpr size_t kPiece = 1 << 20, kOverlap = 16;
  std::string text(kPiece + kOverlap, '\0');
  for (uint64_t at = m.start; at < m.end; at += kPiece) {
    const size_t want = std::min<uint64_t>(text.size(), m.end - at);
    const iovec local = {text.data(), want};
    const iovec remote = {reinterpret_cast<void*>(at), want};
    const ssize_t got = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (got <= 0) break;
    const std::string_view piece(text.data(), static_cast<size_t>(got));
    const auto look = [&](std::string_view code, int64_t& where) {
      const size_t pos = where < 0 ? piece.find(code) : std::string_view::npos;
      if (pos != std::string_view::npos) where = static_cast<int64_t>(at - m.start + pos);
    };
    look(kSyscallRet, found.syscall_ret);
    for (const auto code : kRestorers) look(code, found.restorer);
    look(kSyscall, found.bare_syscall);
    look(kStore, found.store);
    if (found.syscall_ret >= 0 && found.restorer >= 0 && found.store >= 0) break;
  }
  return found;
}

// Libraries are the same in every process: what was found in a file is remembered, and looked at again before
// use.
Found search_cached(pid_t pid, const Mapping& m) {
  static std::mutex lock;
  static std::map<std::array<uint64_t, 4>, Found> known;
  const std::array<uint64_t, 4> key = {m.device, m.inode, m.offset, m.end - m.start};
  if (m.inode != 0) {
    const std::lock_guard guard(lock);
    if (const auto it = known.find(key); it != known.end()) {
      const Found& f = it->second;
      if ((f.syscall_ret < 0 || holds(pid, {m.start + static_cast<uint64_t>(f.syscall_ret)}, kSyscallRet)) &&
          (f.store < 0 || holds(pid, {m.start + static_cast<uint64_t>(f.store)}, kStore)) &&
          (f.restorer < 0 || holds_restorer(pid, {m.start + static_cast<uint64_t>(f.restorer)}))) {
        return f;
      }
    }
  }
  const Found found = search(pid, m);
  const std::lock_guard guard(lock);
  if (known.size() > 4096) known.clear();
  if (m.inode != 0) known[key] = found;
  return found;
}

// libc first: it has both, and every dynamic program has it.
int rank(const Mapping& m) {
  if (m.path.find("libc.so") != std::string::npos || m.path.find("libc-") != std::string::npos) return 0;
  if (m.path.find("ld-") != std::string::npos) return 1;
  return m.inode != 0 ? 2 : 3;
}

}  // namespace

InjectionSite find_injection_site(pid_t pid, std::vector<Mapping> mappings) {
  InjectionSite site;
  std::vector<const Mapping*> code;
  for (const Mapping& m : mappings) {
    if (m.executable && m.readable && m.path != "[vsyscall]") code.push_back(&m);
  }
  std::stable_sort(code.begin(), code.end(), [](auto* a, auto* b) { return rank(*a) < rank(*b); });
  RemotePtr bare;
  for (const Mapping* m : code) {
    if (site.syscall_ret.addr != 0 && site.restorer.addr != 0) break;
    const Found found = search_cached(pid, *m);
    const auto take = [&](RemotePtr& to, int64_t offset) {
      if (to.addr == 0 && offset >= 0) to.addr = m->start + static_cast<uint64_t>(offset);
    };
    take(site.syscall_ret, found.syscall_ret);
    take(site.restorer, found.restorer);
    take(site.store, found.store);
    take(bare, found.bare_syscall);
  }
  if (site.syscall_ret.addr == 0) {
    if (bare.addr == 0) fail(EOPNOTSUPP, "{}: the process has no system call instruction mapped", pid);
    site.syscall_ret = bare;
    site.restorer = {};
  }
  site.mappings = std::move(mappings);
  return site;
}

bool holds_code(pid_t pid, const InjectionSite& site) {
  if (!site.survives_us()) return site.syscall_ret.addr != 0 && holds(pid, site.syscall_ret, kSyscall);
  if (site.store.addr != 0 && !holds(pid, site.store, kStore)) return false;
  return holds(pid, site.syscall_ret, kSyscallRet) && holds_restorer(pid, site.restorer);
}

}  // namespace ckpt
