// A loop for a traced child that notices when anything of its own has changed.
#pragma once

#include "tests/unit/target.h"

namespace ckpt::test {

struct Report {
  std::atomic<int> ready{0};
  std::atomic<int> others{0};  // threads of other kinds that are ready
  std::atomic<uint64_t> rounds{0};
  std::atomic<uint64_t> bad{0};
  std::atomic<bool> finish{false};
  std::atomic<int64_t> nanoseconds{0};
};

// A loop that notices any change of a register, of the vector state or of the memory below the stack
// pointer's use.
inline int check_registers(Report* report) {
  report->ready = 1;
  while (!report->finish) {
    uint64_t wrong = 0;
    asm volatile(
        "mov $0x1111111111111111, %%rbx\n mov %%rbx, %%r12\n mov %%rbx, %%r13\n mov %%rbx, %%r14\n mov "
        "%%rbx, %%r15\n"
        "mov %%rbx, %%rax\n mov %%rbx, %%rcx\n mov %%rbx, %%rdx\n mov %%rbx, %%rsi\n mov %%rbx, %%rdi\n"
        "mov %%rbx, %%r8\n mov %%rbx, %%r9\n mov %%rbx, %%r10\n mov %%rbx, %%r11\n"
        "movq %%rbx, %%xmm0\n movq %%rbx, %%xmm15\n movq %%rbx, -8(%%rsp)\n movq %%rbx, -120(%%rsp)\n"
        ".rept 2000\n nop\n .endr\n"
        "xor %%rbx, %%r12\n xor %%rbx, %%r13\n xor %%rbx, %%r14\n xor %%rbx, %%r15\n xor %%rbx, %%rax\n"
        "xor %%rbx, %%rcx\n xor %%rbx, %%rdx\n xor %%rbx, %%rsi\n xor %%rbx, %%rdi\n xor %%rbx, %%r8\n"
        "xor %%rbx, %%r9\n xor %%rbx, %%r10\n xor %%rbx, %%r11\n"
        "or %%r12, %%rax\n or %%r13, %%rax\n or %%r14, %%rax\n or %%r15, %%rax\n or %%rcx, %%rax\n or %%rdx, "
        "%%rax\n"
        "or %%rsi, %%rax\n or %%rdi, %%rax\n or %%r8, %%rax\n or %%r9, %%rax\n or %%r10, %%rax\n or %%r11, "
        "%%rax\n"
        "movq %%xmm0, %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "movq %%xmm15, %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "mov -8(%%rsp), %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "mov -120(%%rsp), %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        : "=&a"(wrong)
        :
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
          "xmm15", "memory", "cc");
    if (wrong != 0) ++report->bad;
    ++report->rounds;
  }
  return report->bad == 0 ? 0 : 1;
}

}  // namespace ckpt::test
