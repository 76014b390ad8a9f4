// Every register that a program can hold a value in, kept by a thread that spins without touching memory: general
// registers, direction flag, FS and GS base, x87 stack and control word, MXCSR, XMM, YMM, ZMM and mask registers.
#include "selfcheck.h"

#include <asm/prctl.h>

#include <atomic>
#include <thread>

extern "C" {
struct Area {
  uint64_t general[14];   // rax rbx rcx rdx rsi rdi rbp r8..r14 (r15 as well below)
  uint64_t r15;
  uint64_t flags;
  double x87[8];
  uint16_t control;
  uint32_t mxcsr;
  uint64_t mask[8];
  alignas(64) uint8_t vector[32][64];
};
Area area_in __attribute__((visibility("hidden")));
Area area_out __attribute__((visibility("hidden")));
int vector_level __attribute__((visibility("hidden")));    // 0 SSE, 1 AVX, 2 AVX-512
std::atomic<uint8_t> spin_end __attribute__((visibility("hidden")));
std::atomic<uint8_t> spinning __attribute__((visibility("hidden")));
void load_spin_store();
}

static_assert(offsetof(Area, r15) == 112 && offsetof(Area, flags) == 120 && offsetof(Area, x87) == 128 &&
              offsetof(Area, control) == 192 && offsetof(Area, mxcsr) == 196 && offsetof(Area, mask) == 200 &&
              offsetof(Area, vector) == 320);

asm(R"(
.text
.global load_spin_store
.hidden load_spin_store
load_spin_store:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  fninit
  fldcw 192+area_in(%rip)
  .irp n, 7,6,5,4,3,2,1,0
  fldl 128+8*\n+area_in(%rip)
  .endr
  ldmxcsr 196+area_in(%rip)
  cmpl $1, vector_level(%rip)
  je 1f
  ja 2f
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  movups 320+64*\n+area_in(%rip), %xmm\n
  .endr
  jmp 3f
1:
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  vmovups 320+64*\n+area_in(%rip), %ymm\n
  .endr
  jmp 3f
2:
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
  vmovups 320+64*\n+area_in(%rip), %zmm\n
  .endr
  .irp n, 0,1,2,3,4,5,6,7
  kmovq 200+8*\n+area_in(%rip), %k\n
  .endr
3:
  movq   0+area_in(%rip), %rax
  movq   8+area_in(%rip), %rbx
  movq  16+area_in(%rip), %rcx
  movq  24+area_in(%rip), %rdx
  movq  32+area_in(%rip), %rsi
  movq  40+area_in(%rip), %rdi
  movq  48+area_in(%rip), %rbp
  movq  56+area_in(%rip), %r8
  movq  64+area_in(%rip), %r9
  movq  72+area_in(%rip), %r10
  movq  80+area_in(%rip), %r11
  movq  88+area_in(%rip), %r12
  movq  96+area_in(%rip), %r13
  movq 104+area_in(%rip), %r14
  movq 112+area_in(%rip), %r15
  std
  movb $1, spinning(%rip)
4:
  pause
  cmpb $0, spin_end(%rip)
  je 4b
  movq %rax,   0+area_out(%rip)
  pushf
  pop %rax
  cld
  movq %rax, 120+area_out(%rip)
  movq %rbx,   8+area_out(%rip)
  movq %rcx,  16+area_out(%rip)
  movq %rdx,  24+area_out(%rip)
  movq %rsi,  32+area_out(%rip)
  movq %rdi,  40+area_out(%rip)
  movq %rbp,  48+area_out(%rip)
  movq %r8,   56+area_out(%rip)
  movq %r9,   64+area_out(%rip)
  movq %r10,  72+area_out(%rip)
  movq %r11,  80+area_out(%rip)
  movq %r12,  88+area_out(%rip)
  movq %r13,  96+area_out(%rip)
  movq %r14, 104+area_out(%rip)
  movq %r15, 112+area_out(%rip)
  fnstcw 192+area_out(%rip)
  .irp n, 0,1,2,3,4,5,6,7
  fstpl 128+8*\n+area_out(%rip)
  .endr
  stmxcsr 196+area_out(%rip)
  cmpl $1, vector_level(%rip)
  je 5f
  ja 6f
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  movups %xmm\n, 320+64*\n+area_out(%rip)
  .endr
  jmp 7f
5:
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  vmovups %ymm\n, 320+64*\n+area_out(%rip)
  .endr
  vzeroupper
  jmp 7f
6:
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
  vmovups %zmm\n, 320+64*\n+area_out(%rip)
  .endr
  .irp n, 0,1,2,3,4,5,6,7
  kmovq %k\n, 200+8*\n+area_out(%rip)
  .endr
  vzeroupper
7:
  fninit
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");

namespace {

constexpr int vector_bytes[] = {16, 32, 64};
uint64_t gs_word = 0x1122334455667788;

void set_values() {
  for (int i = 0; i < 14; ++i) area_in.general[i] = pattern(1, i);
  area_in.r15 = pattern(1, 14);
  for (int i = 0; i < 8; ++i) area_in.x87[i] = 1.25 * (i + 1) + 1e10 * i;
  area_in.control = 0x0c7f;   // round towards zero, extended precision's bits cleared: nothing is the default
  area_in.mxcsr = 0x7fa5;     // round towards zero, all exceptions masked, some sticky flags set
  for (int i = 0; i < 8; ++i) area_in.mask[i] = pattern(2, i);
  fill(area_in.vector, sizeof area_in.vector, 3);
  __builtin_cpu_init();
  vector_level = __builtin_cpu_supports("avx512bw") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0;
}

void hold_registers() {
  must(syscall(SYS_arch_prctl, ARCH_SET_GS, &gs_word), "ARCH_SET_GS");
  load_spin_store();
  uint64_t read = 0, base = 0, fs_base = 0, fs_word = 0;
  asm volatile("movq %%gs:0, %0" : "=r"(read));
  must(syscall(SYS_arch_prctl, ARCH_GET_GS, &base), "ARCH_GET_GS");
  REQUIRE(base == reinterpret_cast<uint64_t>(&gs_word) && read == gs_word, "the GS base is %llx",
          static_cast<unsigned long long>(base));
  must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base), "ARCH_GET_FS");
  asm volatile("movq %%fs:0, %0" : "=r"(fs_word));  // the thread control block begins with its own address
  REQUIRE(fs_base == fs_word, "the FS base is %llx", static_cast<unsigned long long>(fs_base));
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  set_values();
  std::thread holder(hold_registers);
  wait_until([] { return spinning != 0; }, "the registers are set");
  ready();
  wait_for_go();
  spin_end = 1;
  holder.join();
  static const char* const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                      "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (int i = 0; i < 15; ++i) {
    const uint64_t was = i < 14 ? area_in.general[i] : area_in.r15, is = i < 14 ? area_out.general[i] : area_out.r15;
    REQUIRE(was == is, "%s was %016llx, is %016llx", names[i], static_cast<unsigned long long>(was),
            static_cast<unsigned long long>(is));
  }
  REQUIRE(area_out.flags & 0x400, "the direction flag is gone: flags %llx",
          static_cast<unsigned long long>(area_out.flags));
  for (int i = 0; i < 8; ++i) REQUIRE(area_in.x87[i] == area_out.x87[i], "st(%d) was %g, is %g", i, area_in.x87[i],
                                      area_out.x87[i]);
  REQUIRE(area_in.control == area_out.control, "the x87 control word is %x", area_out.control);
  REQUIRE(area_in.mxcsr == area_out.mxcsr, "mxcsr was %x, is %x", area_in.mxcsr, area_out.mxcsr);
  for (int i = 0; i < (vector_level == 2 ? 32 : 16); ++i)
    REQUIRE(memcmp(area_in.vector[i], area_out.vector[i], vector_bytes[vector_level]) == 0,
            "vector register %d (%d bytes) has changed", i, vector_bytes[vector_level]);
  for (int i = 0; i < (vector_level == 2 ? 8 : 0); ++i)
    REQUIRE(area_in.mask[i] == area_out.mask[i], "k%d has changed", i);
  return passed();
}
