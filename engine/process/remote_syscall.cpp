#include "engine/process/remote_syscall.h"

#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "engine/base/error.h"
#include "engine/process/restart.h"
#include "engine/process/signal_frame.h"

namespace ckpt {
namespace {

constexpr uint64_t kRedZone = 128;
constexpr size_t kScratch = 4096;
constexpr size_t kMaxUndo = 4;
constexpr uint64_t kAllSignals = ~0ull;
constexpr std::string_view kSyscallRet("\x0f\x05\xc3", 3);
constexpr std::string_view kSyscall("\x0f\x05", 2);
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
  int64_t syscall_ret = -1, restorer = -1, bare_syscall = -1;
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
    if (found.syscall_ret >= 0 && found.restorer >= 0) break;
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
  return holds(pid, site.syscall_ret, kSyscallRet) && holds_restorer(pid, site.restorer);
}

namespace {

size_t padded_frame_bytes() { return (signal_frame_bytes() + 63) & ~63ull; }

/// Memory of the tracee; zeros where that is below the end of the main stack, which grows when it is written.
std::vector<std::byte> read_stack(const Tracee& tracee, RemotePtr at, size_t size) {
  std::vector<std::byte> bytes(size);
  try {
    tracee.read(at, bytes);
  } catch (const Error& e) {
    if (e.err() != EFAULT) throw;
  }
  return bytes;
}

}  // namespace

struct RemoteSyscall::Borrowed {
  user_regs_struct regs{};  // the thread's own
  uint64_t mask = 0;
  user_regs_struct calling{};  // base for our calls
  RemotePtr scratch;
  RemotePtr frame;  // brings the thread back to itself
  RemotePtr area;   // its XSAVE state
  std::vector<std::byte> xsave;
  std::vector<std::byte> bytes;  // what stood where scratch memory, frame and area are
  // Frames of on_our_death(), each making one call and returning into the next; below the scratch memory.
  RemotePtr undo_frames;
  size_t undo_count = 0, undo_done = 0;
  std::vector<std::byte> undo_bytes;
  bool seccomp_suspended = false;

  /// Where a call returns to if nobody is there to stop the thread behind it.
  RemotePtr returns_to() const {
    return undo_done < undo_count ? undo_frames + undo_done * padded_frame_bytes() : frame;
  }
};

namespace {

uint64_t align_down(uint64_t value, uint64_t to) { return value & ~(to - 1); }
uint64_t align_up(uint64_t value, uint64_t to) { return align_down(value + to - 1, to); }

// A stack made by mmap for a thread ends in guard pages; memory of a heap does not (malloc's arenas have
// large reserves of the kind between them).
bool has_guard_below(const std::vector<Mapping>& mappings, const Mapping& m) {
  constexpr uint64_t kLargestGuard = 1 << 20;
  if (&m == mappings.data()) return false;
  const Mapping& below = *(&m - 1);
  return below.end == m.start && !below.readable && !below.writable && !below.executable &&
         below.end - below.start <= kLargestGuard;
}

/// Whether `size` bytes from `low` up to the red zone below `rsp` are known to be nobody's.
bool is_dead_stack(const InjectionSite& site, uint64_t rsp, uint64_t low) {
  const Mapping* stack = mapping_at(site.mappings, rsp);
  if (stack == nullptr || !stack->writable || stack->shared) return false;
  // The main stack grows when it is written to below its end (through /proc/PID/mem).
  if (stack->path == "[stack]") return true;
  return low >= stack->start && has_guard_below(site.mappings, *stack);
}

}  // namespace

uint64_t rseq_resume_ip(const Tracee& tracee, uint64_t ip) {
  struct {
    uint32_t version, flags;
    uint64_t start, length, abort;
  } section{};
  constexpr uint64_t kRseqCsOffset = 8;  // struct rseq: cpu_id_start, cpu_id, rseq_cs
  const auto config = tracee.rseq();
  if (!config || config->abi == 0) return ip;
  try {
    uint64_t pointer = 0;
    tracee.read({config->abi + kRseqCsOffset}, std::as_writable_bytes(std::span(&pointer, 1)));
    if (pointer == 0) return ip;
    tracee.read({pointer}, std::as_writable_bytes(std::span(&section, 1)));
  } catch (const Error& e) {
    if (e.err() != EFAULT) throw;
    return ip;  // the kernel will find the bad pointer by itself
  }
  return ip - section.start < section.length ? section.abort : ip;
}

RemoteSyscall::RemoteSyscall(Tracee& tracee, InjectionSite& site) : tracee_(tracee), site_(site) {}

// A piece at the far end of the main thread's stack, well below what that thread uses. Where all are lent,
// the thread that has had one longest gives it back: its next call prepares it again.
RemotePtr RemoteSyscall::borrow_main_stack(size_t step) const {
  constexpr uint64_t kKeepOff = 32 << 10;  // for the main thread's own frame
  constexpr uint64_t kUnknown = 32 << 10;  // believed to be unused, where the main thread is on another stack
  const auto stack = std::find_if(site_.mappings.begin(), site_.mappings.end(),
                                  [](const Mapping& m) { return m.path == "[stack]"; });
  if (stack == site_.mappings.end()) return {};
  const bool on_it = site_.main_rsp >= stack->start && site_.main_rsp < stack->end;
  const uint64_t end = on_it ? std::max(stack->start, site_.main_rsp - std::min(site_.main_rsp, kKeepOff))
                             : std::min(stack->end, stack->start + kUnknown);
  for (;;) {
    for (uint64_t at = stack->start; at + step <= end; at += step) {
      const auto same = [at](const auto& piece) { return piece.first == at; };
      if (std::any_of(site_.lent.begin(), site_.lent.end(), same)) continue;
      site_.lent.emplace_back(at, const_cast<RemoteSyscall*>(this));
      return {at};
    }
    if (site_.lent.empty()) return {};
    site_.lent.front().second->finish();
  }
}

void RemoteSyscall::give_back() const {
  std::erase_if(site_.lent, [this](const auto& piece) { return piece.second == this; });
}

RemoteSyscall::Borrowed& RemoteSyscall::prepare() const {
  if (borrowed_) return *borrowed_;
  auto b = std::make_unique<Borrowed>();
  b->regs = own_registers();
  b->mask = tracee_.signal_mask();
  b->xsave = tracee_.xsave();

  // From high to low: XSAVE area, frame, scratch memory, frames of on_our_death().
  const size_t area_size = (xsave_area_bytes(b->xsave) + 63) & ~63ull;
  const size_t undo_size = kMaxUndo * padded_frame_bytes();
  const size_t size = undo_size + kScratch + padded_frame_bytes() + area_size;
  b->undo_frames = {align_down(b->regs.rsp - kRedZone - size, 64)};
  if (!is_dead_stack(site_, b->regs.rsp, b->undo_frames.addr)) {
    // Without any main stack the bytes below the stack pointer have to do: they are put back, if we live.
    // All pieces are as large as the largest may be, that of a thread with every feature of the CPU in use.
    const size_t largest = align_up(size - area_size + b->xsave.size() + 64, 4096);
    if (const RemotePtr piece = borrow_main_stack(largest); piece.addr != 0) b->undo_frames = piece;
  }
  b->scratch = b->undo_frames + undo_size;
  b->frame = b->scratch + kScratch;
  b->area = b->frame + padded_frame_bytes();
  const SignalFrame made = make_signal_frame(restart_fixed(b->regs, call_to_repeat(tracee_, b->regs)),
                                             b->mask, b->xsave, site_.restorer.addr, b->area.addr);

  b->calling = b->regs;
  b->calling.rip = site_.syscall_ret.addr;
  b->calling.rsp = b->frame.addr;
  b->calling.rax = SYS_getpid;  // harmless, should we die before the first call
  b->calling.orig_rax = static_cast<unsigned long long>(-1);

  try {
    b->bytes = read_stack(tracee_, b->scratch, kScratch + padded_frame_bytes() + area_size);
    std::vector<std::byte> image = b->bytes;
    const auto frame_in = image.begin() + kScratch;
    std::copy(made.frame.begin(), made.frame.end(), frame_in);
    std::copy(made.area.begin(), made.area.end(), frame_in + static_cast<ptrdiff_t>(padded_frame_bytes()));
    tracee_.write(b->scratch, image);
    // From here to finish() no instruction of its own runs, so nothing that seccomp would keep it from is let through.
    b->seccomp_suspended = tracee_.suspend_seccomp(true);
    tracee_.set_registers(b->calling);
    tracee_.set_signal_mask(kAllSignals);
  } catch (...) {
    give_back();
    throw;
  }
  borrowed_ = std::move(b);
  return *borrowed_;
}

long RemoteSyscall::syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  ++calls_;
  user_regs_struct regs = prepare().calling;
  regs.rsp = borrowed_->returns_to().addr;
  regs.rax = static_cast<unsigned long long>(nr);
  regs.rdi = a;
  regs.rsi = b;
  regs.rdx = c;
  regs.r10 = d;
  regs.r8 = e;
  regs.r9 = f;
  for (;;) {
    tracee_.set_registers(regs);
    tracee_.run_to_syscall_stop();  // entry
    tracee_.run_to_syscall_stop();  // exit
    long result = static_cast<long>(tracee_.rax());
    // A thread that was stopped on its way out of an execve reports the exit of that first, and what was taken for the
    // exit of ours is its entry.
    if (result == -ENOSYS && tracee_.enters_call()) {
      tracee_.run_to_syscall_stop();
      result = static_cast<long>(tracee_.rax());
    }
    // Interrupted by a SIGSTOP, say: the kernel would restart it, had it orig_rax >= 0 and passed
    // get_signal().
    if (result > -512 || result < -516) return result;
  }
}

/// Frames to stand one after another at `at`, each making one call and returning into the next, the last to `after`.
std::vector<std::byte> RemoteSyscall::frames_of(const std::vector<SystemCall>& calls, RemotePtr at,
                                                RemotePtr after) const {
  const Borrowed& b = *borrowed_;
  const size_t step = padded_frame_bytes();
  std::vector<std::byte> frames(calls.size() * step);
  for (size_t i = 0; i < calls.size(); ++i) {
    const auto& args = calls[i].args;
    user_regs_struct regs = b.calling;
    regs.rax = static_cast<unsigned long long>(calls[i].nr);
    regs.rdi = args[0];
    regs.rsi = args[1];
    regs.rdx = args[2];
    regs.r10 = args[3];
    regs.r8 = args[4];
    regs.r9 = args[5];
    regs.rsp = i + 1 < calls.size() ? (at + (i + 1) * step).addr : after.addr;
    const SignalFrame made =
        make_signal_frame(regs, kAllSignals, b.xsave, site_.restorer.addr, b.area.addr);
    std::copy(made.frame.begin(), made.frame.end(), frames.begin() + static_cast<ptrdiff_t>(i * step));
  }
  return frames;
}

void RemoteSyscall::on_our_death(const std::vector<SystemCall>& calls) {
  Borrowed& b = prepare();
  if (calls.size() > kMaxUndo) fail(EINVAL, "{}: {} calls are too many to be undone", pid(), calls.size());
  if (b.undo_bytes.empty()) b.undo_bytes = read_stack(tracee_, b.undo_frames, kMaxUndo * padded_frame_bytes());
  const std::vector<std::byte> frames = frames_of(calls, b.undo_frames, b.frame);
  if (!frames.empty()) tracee_.write(b.undo_frames, frames);
  // Under seccomp they may be its end: rather a page or a child too many.
  b.undo_count = site_.seccomp ? 0 : calls.size();
  b.undo_done = 0;
}

RemotePtr RemoteSyscall::on_death_argument(size_t argument) {
  return prepare().undo_frames + signal_frame_argument(argument);
}

RemotePtr RemoteSyscall::put_calls(const std::vector<SystemCall>& calls, size_t& offset) {
  if (!site_.survives_us()) return {};
  const RemotePtr at = scratch() + offset;
  const std::vector<std::byte> frames = frames_of(calls, at, {});
  if (offset + frames.size() > scratch_size()) fail(EINVAL, "{}: {} calls are too many", pid(), calls.size());
  tracee_.write(at, frames);
  offset += frames.size();
  return at;
}

void RemoteSyscall::drop_first_on_death() {
  if (borrowed_ && borrowed_->undo_done < borrowed_->undo_count) ++borrowed_->undo_done;
}

RemotePtr RemoteSyscall::scratch() const { return prepare().scratch; }

const user_regs_struct& RemoteSyscall::own_registers() const {
  if (own_known_) return own_;
  const user_regs_struct found = tracee_.registers();
  own_ = undo_restart(tracee_, undo_interruption(found));
  // Once our instruction pointer is in place the kernel forgets the critical section: the abort is due before
  // that.
  own_.rip = rseq_resume_ip(tracee_, own_.rip);
  own_changed_ = own_.rax != found.rax || own_.rip != found.rip;
  own_known_ = true;
  return own_;
}

uint64_t RemoteSyscall::signal_mask() { return borrowed_ ? borrowed_->mask : tracee_.signal_mask(); }

void RemoteSyscall::finish() {
  if (!borrowed_) {
    if (own_changed_) tracee_.set_registers(own_);
    own_changed_ = false;
    return;
  }
  own_changed_ = false;
  const std::unique_ptr<Borrowed> b = std::move(borrowed_);
  give_back();
  // The mask first: with it gone wrong in the middle, the frame still brings both back.
  tracee_.set_signal_mask(b->mask);
  tracee_.set_registers(b->regs);
  if (b->seccomp_suspended) tracee_.suspend_seccomp(false);
  tracee_.write(b->scratch, b->bytes);
  if (!b->undo_bytes.empty()) tracee_.write(b->undo_frames, b->undo_bytes);
}

RemoteSyscall::~RemoteSyscall() {
  try {
    finish();
  } catch (const Error&) {
    // The process was killed: there is nothing to put back.
  }
}

}  // namespace ckpt
