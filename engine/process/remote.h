// System calls and memory of a stopped thread of another process. Rooms program against this interface; behind it
// stands an injector that survives our death (capture, remote_syscall.h) or the resume's stub (stub.h).
//
//   RemoteBuffer<sigaltstack_t> ss(remote);                        // scratch memory in the tracee
//   remote.call(SYS_sigaltstack, 0, ss.addr().addr);
//   if (ss.get().ss_flags & SS_DISABLE) ...
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/process/remote_ptr.h"

namespace ckpt {

/// A system call and its arguments, as values.
struct SystemCall {
  long nr = 0;
  std::array<uint64_t, 6> args{};
};

class Remote {
 public:
  virtual ~Remote() = default;
  virtual pid_t pid() const = 0;
  virtual pid_t tid() const = 0;

  /// Runs a system call in the tracee; returns what the kernel returned (-errno for an error). Throws Error(ESRCH)
  /// if the tracee died meanwhile.
  virtual long syscall(long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
                       uint64_t f = 0) = 0;

  /// Runs system calls one after another, as syscall() each, none of which may block; returns their results. Where it
  /// can, an injector makes up to kCallsAtOnce of them for hardly more than the price of one.
  static constexpr size_t kCallsAtOnce = 24;
  virtual std::vector<long> run_all(std::span<const SystemCall> calls);

  /// Memory of the tracee, exact length. Writing goes through read-only private mappings (as FOLL_FORCE).
  /// Throws Error(EFAULT, ESRCH).
  virtual void read(RemotePtr from, std::span<std::byte> to) = 0;
  virtual void write(RemotePtr to, std::span<const std::byte> from) = 0;

  /// Scratch memory for arguments, at least 4096 bytes, 64-byte aligned, free for the caller between any two calls.
  virtual RemotePtr scratch() const = 0;
  virtual size_t scratch_size() const = 0;

  /// The thread's own signal mask: an injector that blocks signals for its calls answers with the mask it found.
  virtual uint64_t signal_mask();

  /// What the thread is to do by itself if we die from the next syscall() on, in this order (at most 4 calls, none may
  /// block): what undoes the calls that are about to be made. Where an injector's death is the tracee's too, nothing.
  virtual void on_our_death(const std::vector<SystemCall>&) {}
  /// From the next syscall() on the first of these is no longer to be done: that syscall() does it, or it is done with.
  virtual void drop_first_on_death() {}

  /// Where in the process an argument (0 to 5) of the first call of on_our_death() stands, 8 bytes: a system call that
  /// makes what is to be undone may be told to write it there. None where nothing is undone.
  virtual RemotePtr on_death_argument(size_t) { return {}; }
  /// For a task that a system call in this thread is about to make: lays out, at scratch() + `offset` (a multiple of 64),
  /// what makes it do these calls in this order (the last one must end it), with all signals blocked. Returns the
  /// stack pointer that it is to begin with, or none where that cannot be done. `offset` becomes the end of it.
  virtual RemotePtr put_calls(const std::vector<SystemCall>&, size_t&) { return {}; }

  // Conveniences.
  /// As syscall(), but an error is thrown: "1234: sigaltstack in the process: Operation not permitted".
  long call(const char* name, long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
            uint64_t e = 0, uint64_t f = 0);
  /// Puts a NUL-terminated string, or any object, at scratch() + offset and returns its address.
  RemotePtr put_string(const std::string& s, size_t offset = 0);
  template <typename T>
  RemotePtr put(const T& value, size_t offset = 0) {
    static_assert(std::is_trivially_copyable_v<T>);
    write(scratch() + offset, std::as_bytes(std::span<const T, 1>(&value, 1)));
    return scratch() + offset;
  }
  template <typename T>
  T get(RemotePtr from) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    read(from, std::as_writable_bytes(std::span<T, 1>(&value, 1)));
    return value;
  }
};

}  // namespace ckpt
