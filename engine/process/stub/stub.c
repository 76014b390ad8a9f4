// The stub: what runs under the pid of a process that is about to be resumed, until the process itself stands in its
// place. It holds still; the tracer does everything else with system calls at its own pages (engine/process/stub.h).
//
// Freestanding and static on purpose: no libc means no rseq registration, no TLS, no relocation, a memory of a few
// pages that is unmapped in one go, and nothing that could run by itself.
#include <asm/unistd.h>

void _start(void) {
  for (;;) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(__NR_pause) : "rcx", "r11", "memory");
  }
}
