// A thread whose kernel state is known from the kernel module, ckpt(4): system calls that only ask for it are answered here
// and not made.
//
//   for (auto& thread : told_remotes(process, module)) thread->call("getitimer", SYS_getitimer, ...);   // nothing is run
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "engine/process/remote.h"
#include "engine/process/stop.h"
#include "kmod/ckpt_device.h"

namespace ckpt {

struct ProcessFacts {
  ckpt_process process{};
  std::vector<ckpt_timer> timers;
};

/// Lives as long as the stop whose facts it has. As its RemoteSyscall in all else; not thread-safe.
class ToldRemote : public Remote {
 public:
  /// `thread` must outlive the object.
  ToldRemote(RemoteSyscall& thread, std::shared_ptr<const ProcessFacts> process, const ckpt_thread& facts);

  pid_t pid() const override { return thread_.pid(); }
  pid_t tid() const override { return thread_.tid(); }
  long syscall(long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
               uint64_t f = 0) override;
  void read(RemotePtr from, std::span<std::byte> to) override;
  void write(RemotePtr to, std::span<const std::byte> from) override;
  /// Nowhere in the process as long as nothing is run in it.
  RemotePtr scratch() const override;
  size_t scratch_size() const override { return scratch_.size(); }
  /// Those that are known are answered first, the others made.
  std::vector<long> run_all(std::span<const SystemCall> calls) override;
  uint64_t signal_mask() override { return thread_.signal_mask(); }
  void on_our_death(const std::vector<SystemCall>& calls) override { thread_.on_our_death(calls); }
  void drop_first_on_death() override { thread_.drop_first_on_death(); }
  RemotePtr on_death_argument(size_t argument) override { return thread_.on_death_argument(argument); }
  RemotePtr put_calls(const std::vector<SystemCall>& calls, size_t& offset) override;

  /// Whether memory to come is locked, in the words of the record lock_future (engine/memory/memory_marks.h).
  uint64_t future_lock() const;

 private:
  using Arguments = std::array<uint64_t, 6>;
  std::optional<long> answer(long nr, const Arguments& a);
  std::optional<long> answer_prctl(const Arguments& a);
  std::optional<long> answer_timer(const Arguments& a);
  std::optional<long> answer_keyring(const Arguments& a) const;
  std::optional<long> answer_protection_key(const Arguments& a) const;
  template <typename T>
  long give(uint64_t at, const T& value) {
    write(RemotePtr{at}, std::as_bytes(std::span<const T, 1>(&value, 1)));
    return 0;
  }
  bool in_scratch(uint64_t address) const;
  void move_in();
  uint64_t there(uint64_t address) const;

  RemoteSyscall& thread_;
  const std::shared_ptr<const ProcessFacts> process_;
  const ckpt_thread facts_;
  /// Stands for the scratch memory until a call has to be made after all.
  std::array<std::byte, 4096> scratch_{};
  bool moved_in_ = false;
};

/// One a thread of a stopped process, in the order of its remotes(). Empty where the module does not tell: it is not of our
/// version, we may not ask, the process has changed its timers meanwhile.
std::vector<std::unique_ptr<ToldRemote>> told_remotes(const StoppedProcess& process, int module);

}  // namespace ckpt
