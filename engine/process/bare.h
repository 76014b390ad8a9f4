// Code that runs in a process that shares our memory: no libc function that may touch errno, no lock, no allocation, no
// instrumentation, since its TLS is that of the thread that made it.
#pragma once

#include <linux/sched.h>
#include <sys/syscall.h>

#define CKPT_BARE __attribute__((no_sanitize("address", "undefined", "thread"), no_stack_protector))

namespace ckpt {

/// A system call; the kernel's own result.
CKPT_BARE inline long raw_call(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}

/// clone3 whose child calls body(arg) on the stack given in `args` and must not return from it.
CKPT_BARE inline long clone_and_call(const clone_args& args, void (*body)(void*), void* arg) {
  long result;
  register void (*r12)(void*) __asm__("r12") = body;
  register void* r13 __asm__("r13") = arg;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r13, %%rdi\n\t"
      "call *%%r12\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(SYS_clone3), "D"(&args), "S"(sizeof(args)), "r"(r12), "r"(r13)
      : "rcx", "r11", "memory");
  return result;
}

}  // namespace ckpt
