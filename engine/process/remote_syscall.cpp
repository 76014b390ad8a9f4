#include "engine/process/remote_syscall.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/process/injected_calls.h"
#include "engine/process/restart.h"
#include "engine/process/signal_frame.h"

namespace ckpt {
namespace {

constexpr uint64_t kRedZone = 128;
constexpr size_t kScratch = 4096;
constexpr size_t kMaxUndo = 4;
constexpr uint64_t kAllSignals = ~0ull;
constexpr long kErestartBlock = -516;

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
  std::vector<std::byte> bytes;  // what stood where scratch memory, frame and area are
  // Frames of on_our_death(), each making one call and returning into the next; below the scratch memory.
  RemotePtr undo_frames;
  size_t undo_count = 0, undo_done = 0;
  std::vector<std::byte> undo_bytes;
  bool on_own_stack = true;
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
  const std::vector<std::byte> xsave = tracee_.xsave();
  const std::vector<std::byte> area = make_xsave_area(xsave);

  // From high to low: XSAVE area, frame, scratch memory, frames of on_our_death().
  const size_t area_size = align_up(area.size(), 64);
  const size_t undo_size = kMaxUndo * padded_frame_bytes();
  const size_t size = undo_size + kScratch + padded_frame_bytes() + area_size;
  b->undo_frames = {align_down(b->regs.rsp - kRedZone - size, 64)};
  if (!is_dead_stack(site_, b->regs.rsp, b->undo_frames.addr)) {
    // Without any main stack the bytes below the stack pointer have to do: they are put back, if we live.
    // All pieces are as large as the largest may be, that of a thread with every feature of the CPU in use.
    const size_t largest = align_up(size - area_size + xsave.size() + 64, 4096);
    if (const RemotePtr piece = borrow_main_stack(largest); piece.addr != 0) b->undo_frames = piece;
    b->on_own_stack = false;
  }
  b->scratch = b->undo_frames + undo_size;
  b->frame = b->scratch + kScratch;
  b->area = b->frame + padded_frame_bytes();

  b->calling = b->regs;
  b->calling.rip = site_.syscall_ret.addr;
  b->calling.rsp = b->frame.addr;
  b->calling.rax = SYS_getpid;  // harmless, should we die before the first call
  b->calling.orig_rax = static_cast<unsigned long long>(-1);

  try {
    b->bytes = read_stack(tracee_, b->scratch, kScratch + padded_frame_bytes() + area_size);
    std::vector<std::byte> image = b->bytes;
    make_signal_frame(restart_fixed(b->regs, call_to_repeat(tracee_, b->regs)), b->mask, site_.restorer.addr,
                      b->area.addr, std::span(image).subspan(kScratch));
    std::ranges::copy(area, image.begin() + static_cast<ptrdiff_t>(kScratch + padded_frame_bytes()));
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

user_regs_struct RemoteSyscall::registers_for(const SystemCall& call, RemotePtr returns_to) const {
  user_regs_struct regs = borrowed_->calling;
  regs.rsp = returns_to.addr;
  regs.rax = static_cast<unsigned long long>(call.nr);
  regs.rdi = call.args[0];
  regs.rsi = call.args[1];
  regs.rdx = call.args[2];
  regs.r10 = call.args[3];
  regs.r8 = call.args[4];
  regs.r9 = call.args[5];
  return regs;
}

long RemoteSyscall::syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  ++injected_calls;
  prepare();
  const user_regs_struct regs = registers_for({nr, {a, b, c, d, e, f}}, borrowed_->returns_to());
  for (;;) {
    tracee_.set_registers(regs);
    tracee_.run_to_syscall_stop();  // entry
    tracee_.run_to_syscall_stop();  // exit
    const long result = static_cast<long>(tracee_.rax());
    // Interrupted by a SIGSTOP, say: the kernel would restart it, had it orig_rax >= 0 and passed
    // get_signal().
    if (result > -512 || result < -516) return result;
  }
}

/// Frames to stand one after another at `at`, each making one call and returning into the next, the last to `after`.
std::vector<std::byte> RemoteSyscall::frames_of(std::span<const SystemCall> calls, RemotePtr at,
                                                RemotePtr after) const {
  const Borrowed& b = *borrowed_;
  const size_t step = padded_frame_bytes();
  std::vector<std::byte> frames(calls.size() * step);
  for (size_t i = 0; i < calls.size(); ++i) {
    const RemotePtr next = i + 1 < calls.size() ? at + (i + 1) * step : after;
    make_signal_frame(registers_for(calls[i], next), kAllSignals, site_.restorer.addr, b.area.addr,
                      std::span(frames).subspan(i * step));
  }
  return frames;
}

// ---- many calls at once ----
//
// Every call returns into a frame that makes the next one, without any stop between them:
//
//   slot i:   store | any rbx | frame of call i: rt_sigreturn with rbx = where the result of call i goes, and
//                               rsp = slot i + 1
//
// A call is made at `syscall; ret`; `ret` goes to `store`, which puts the result away and pops the frame's
// return address, rt_sigreturn. The last two calls leave a mark, and wait until we stop the thread in them. If we are
// killed meanwhile, that wait ends by itself, and the thread returns into its own frame as after any call.

namespace {

constexpr size_t kSlotHead = 2 * sizeof(uint64_t);
constexpr timespec kChainWait = {0, 250'000'000};

size_t slot_bytes() { return kSlotHead + padded_frame_bytes(); }

/// What follows the slots.
struct ChainEnd {
  std::array<int64_t, Remote::kCallsAtOnce> results{};
  int64_t unused = 0;
  timespec mark{}, wait = kChainWait;
};

}  // namespace

RemotePtr RemoteSyscall::chain_memory(size_t size) const {
  const Borrowed& b = *borrowed_;
  if (!site_.survives_us() || site_.store.addr == 0 || !b.on_own_stack || tracee_.group_stopped()) return {};
  // Under seccomp a call that is made when we are no more could be its end. Threads may differ.
  if (site_.seccomp || (tid() != pid() && read_status(tid()).seccomp != 0)) return {};
  // rt_sigreturn forgets how much of a sleep is left (restore_sigcontext() in arch/x86/kernel/signal_64.c).
  if (static_cast<long>(b.regs.rax) == kErestartBlock) return {};
  const RemotePtr at = {align_down(b.undo_frames.addr - size, 64)};
  return is_dead_stack(site_, b.regs.rsp, at.addr) ? at : RemotePtr{};
}

std::vector<long> RemoteSyscall::run_all(std::span<const SystemCall> calls) {
  prepare();
  const RemotePtr at = chain_memory((kCallsAtOnce + 1) * slot_bytes() + sizeof(ChainEnd));
  if (at.addr == 0 || calls.size() < 2) return Remote::run_all(calls);
  std::vector<long> results;
  for (; !calls.empty(); calls = calls.subspan(std::min(calls.size(), kCallsAtOnce))) {
    const std::vector<long> some = run_chain(calls.first(std::min(calls.size(), kCallsAtOnce)), at);
    results.insert(results.end(), some.begin(), some.end());
  }
  return results;
}

std::vector<long> RemoteSyscall::run_chain(std::span<const SystemCall> calls, RemotePtr at) {
  injected_calls += calls.size();
  const auto slot = [&](size_t i) { return at + i * slot_bytes(); };
  const RemotePtr end = slot(calls.size() + 1);
  const RemotePtr mark = end + offsetof(ChainEnd, mark);
  std::vector<std::byte> image((calls.size() + 1) * slot_bytes() + sizeof(ChainEnd));
  const ChainEnd initial;
  std::memcpy(image.data() + (end.addr - at.addr), &initial, sizeof initial);
  const auto put = [&](size_t i, const SystemCall& call, RemotePtr result, RemotePtr next) {
    user_regs_struct regs = registers_for(call, next);
    regs.rbx = result.addr;
    const std::span to = std::span(image).subspan(slot(i).addr - at.addr);
    std::memcpy(to.data(), &site_.store.addr, sizeof(uint64_t));
    make_signal_frame(regs, kAllSignals, site_.restorer.addr, borrowed_->area.addr, to.subspan(kSlotHead));
  };
  // Slot 0 holds the second call: the first one is made by hand.
  const auto result_of = [&](size_t i) { return end + offsetof(ChainEnd, results) + i * sizeof(int64_t); };
  user_regs_struct first = registers_for(calls[0], slot(0));
  first.rbx = result_of(0).addr;
  for (size_t i = 1; i < calls.size(); ++i) put(i - 1, calls[i], result_of(i), slot(i));
  const size_t last = calls.size() - 1;
  put(last, {SYS_clock_gettime, {CLOCK_MONOTONIC, mark.addr}}, end + offsetof(ChainEnd, unused),
      slot(last + 1));
  put(last + 1, {SYS_ppoll, {0, 0, (end + offsetof(ChainEnd, wait)).addr, 0, 8}}, {}, borrowed_->returns_to());

  const std::vector<std::byte> own = read_stack(tracee_, at, image.size());
  tracee_.write(at, image);
  tracee_.set_registers(first);
  wait_chain(at, mark);
  const ChainEnd done = get<ChainEnd>(end);
  // It may have been stopped on its way to the wait: away from memory that is its own again now.
  user_regs_struct back = borrowed_->calling;
  back.rsp = borrowed_->returns_to().addr;
  tracee_.set_registers(back);
  tracee_.write(at, own);
  return {done.results.begin(), done.results.begin() + static_cast<ptrdiff_t>(calls.size())};
}

void RemoteSyscall::wait_chain(RemotePtr from, RemotePtr mark) {
  constexpr int kSpins = 150, kSleeps = 50;
  const auto is_done = [&] { return get<timespec>(mark).tv_sec != 0; };
  do {
    tracee_.go_on();
    // It takes some 20 us where it has a CPU of its own; else it wants ours.
    // It stops by itself where the trap of an earlier interrupt is still to come: another would only be one more of them.
    for (int i = 0; i < kSpins + kSleeps && !is_done() && !tracee_.wait_stop({}); ++i) {
      if (i >= kSpins) sleep_briefly(20'000);
    }
    if (!tracee_.stopped() && !tracee_.gone()) tracee_.interrupt();
    tracee_.wait_stop(Tracee::Deadline::max());
    if (!tracee_.stopped()) fail(ESRCH, "{}: thread {} has been killed", pid(), tid());
  } while (!is_done());
  const uint64_t rsp = tracee_.registers().rsp;
  if (rsp < from.addr || rsp >= borrowed_->area.addr) {
    // We have been held up for so long that it is itself again, and goes on.
    give_back();
    borrowed_.reset();
    own_known_ = false;
    own_registers();  // this stop, too, has interrupted something
    fail(ETIMEDOUT, "{}: thread {} could not be held while it was asked", pid(), tid());
  }
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
