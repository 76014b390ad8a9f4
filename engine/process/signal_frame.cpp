#include "engine/process/signal_frame.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "engine/process/xsave_layout.h"

namespace ckpt {
namespace {

// As in arch/x86/include/uapi/asm/{ucontext,sigcontext}.h, which do not go together with <signal.h>.
struct Frame {
  uint64_t return_address;
  uint64_t uc_flags;
  uint64_t uc_link;
  uint64_t ss_sp;
  int32_t ss_flags;
  int32_t ss_pad;
  uint64_t ss_size;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2;
  uint64_t fpstate;
  uint64_t reserved[8];
  uint64_t mask;
  uint8_t siginfo[128];
};
static_assert(sizeof(Frame) == 8 + 40 + 256 + 8 + 128);

constexpr uint64_t kFpXstate = 1, kSigcontextSs = 2, kStrictRestoreSs = 4;
constexpr int kInvalidStackFlags = 0x7777;      // do_sigaltstack() fails, rt_sigreturn does not mind

// struct _fpx_sw_bytes, at byte 464 of the XSAVE area.
struct SoftwareBytes {
  uint32_t magic1, extended_size;
  uint64_t xfeatures;
  uint32_t xstate_size;
  uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);
constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr size_t kSoftwareBytes = 464, kHeader = 512, kLegacyAndHeader = 576;

uint64_t in_use(std::span<const std::byte> xsave) {
  uint64_t features = 0;
  if (xsave.size() >= kLegacyAndHeader) std::memcpy(&features, xsave.data() + kHeader, sizeof features);
  return features;
}

// Only up to the last component in use: a process without AMX permission may not name more than it has room for.
size_t tight_size(std::span<const std::byte> xsave) {
  size_t size = kLegacyAndHeader;
  for (unsigned bit = 2; bit < 63; ++bit) {
    if ((in_use(xsave) >> bit & 1) == 0) continue;
    const XsaveComponent& component = xsave_layout().components[bit];
    size = std::max<size_t>(size, component.offset + component.size);
  }
  return std::min(size, std::max(xsave.size(), kLegacyAndHeader));
}

constexpr long kErestartSys = -512, kErestartNoIntr = -513, kErestartNoHand = -514, kErestartBlock = -516;

}  // namespace

user_regs_struct restart_fixed(user_regs_struct regs, long repeat_nr) {
  const long orig = static_cast<long>(regs.orig_rax);
  if (orig >= 0) {
    switch (static_cast<long>(regs.rax)) {
      case kErestartSys:
      case kErestartNoIntr:
      case kErestartNoHand:
        regs.rax = regs.orig_rax;
        regs.rip -= 2;
        break;
      case kErestartBlock:
        if (repeat_nr >= 0) {
          regs.rax = static_cast<unsigned long long>(repeat_nr);
          regs.rip -= 2;
        } else {
          regs.rax = static_cast<unsigned long long>(-EINTR);
        }
        break;
      default:
        break;
    }
  }
  regs.orig_rax = static_cast<unsigned long long>(-1);
  return regs;
}

size_t signal_frame_argument(size_t argument) {
  constexpr std::array<size_t, 6> kOffsets = {offsetof(Frame, rdi), offsetof(Frame, rsi), offsetof(Frame, rdx),
                                              offsetof(Frame, r10), offsetof(Frame, r8),  offsetof(Frame, r9)};
  return kOffsets.at(argument);
}

size_t signal_frame_bytes() { return sizeof(Frame); }

std::vector<std::byte> make_xsave_area(std::span<const std::byte> xsave) {
  const size_t size = tight_size(xsave);
  std::vector<std::byte> area(size + sizeof kMagic2);
  std::memcpy(area.data(), xsave.data(), std::min(size, xsave.size()));
  SoftwareBytes sw{};
  sw.magic1 = kMagic1;
  sw.extended_size = static_cast<uint32_t>(size + sizeof kMagic2);
  sw.xfeatures = in_use(xsave) | 3;
  sw.xstate_size = static_cast<uint32_t>(size);
  std::memcpy(area.data() + kSoftwareBytes, &sw, sizeof sw);
  std::memcpy(area.data() + size, &kMagic2, sizeof kMagic2);
  return area;
}

void make_signal_frame(const user_regs_struct& regs, uint64_t mask, uint64_t restorer, uint64_t area_address,
                       std::span<std::byte> out) {
  Frame f{};
  f.return_address = restorer;
  f.uc_flags = kFpXstate | kSigcontextSs | kStrictRestoreSs;
  f.ss_flags = kInvalidStackFlags;
  f.r8 = regs.r8; f.r9 = regs.r9; f.r10 = regs.r10; f.r11 = regs.r11;
  f.r12 = regs.r12; f.r13 = regs.r13; f.r14 = regs.r14; f.r15 = regs.r15;
  f.rdi = regs.rdi; f.rsi = regs.rsi; f.rbp = regs.rbp; f.rbx = regs.rbx;
  f.rdx = regs.rdx; f.rax = regs.rax; f.rcx = regs.rcx; f.rsp = regs.rsp;
  f.rip = regs.rip;
  f.rflags = regs.eflags;
  f.cs = static_cast<uint16_t>(regs.cs);
  f.ss = static_cast<uint16_t>(regs.ss);
  f.fpstate = area_address;
  f.mask = mask;
  std::memcpy(out.data(), &f, sizeof f);
}

}  // namespace ckpt
