// PROT_NONE: a guard faults, and what was written before it became one is there when it is opened again.
#include "selfcheck.h"

#include <setjmp.h>
#include <sys/mman.h>

namespace {

sigjmp_buf out;
void* fault_address;

void on_fault(int, siginfo_t* info, void*) {
  fault_address = info->si_addr;
  siglongjmp(out, info->si_code);
}

void require_fault(volatile char* p, int code, const char* what) {
  fault_address = nullptr;
  const int got = sigsetjmp(out, 1);
  if (got == 0) {
    static_cast<void>(*p);
    failed("%s can be read", what);
  }
  REQUIRE(got == code && fault_address == p, "%s: si_code %d at %p", what, got, fault_address);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  must(sigaction(SIGSEGV, &action, nullptr), "sigaction");
  char* a = must_map(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  fill(a, 1 << 20, 5);
  must(mprotect(a + 65536, 4096, PROT_NONE), "mprotect");
  must(mprotect(a + 131072, 65536, PROT_NONE), "mprotect");
  char* pure = must_map(mmap(nullptr, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  char* hole = must_map(mmap(nullptr, 12288, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
  must(munmap(hole + 4096, 4096), "munmap");
  auto check = [&] {
    require_fault(a + 65536 + 8, SEGV_ACCERR, "a guard page");
    require_fault(pure + 4096, SEGV_ACCERR, "a PROT_NONE mapping");
    require_fault(hole + 4096, SEGV_MAPERR, "a hole");
  };
  check();
  ready();
  wait_for_go(check);
  check();
  must(mprotect(a + 65536, 4096, PROT_READ | PROT_WRITE), "mprotect of the guard");
  must(mprotect(a + 131072, 65536, PROT_READ), "mprotect of the guard");
  require_filled(a, 1 << 20, 5, "memory behind guards");
  must(mprotect(pure, 1 << 20, PROT_READ | PROT_WRITE), "mprotect of a PROT_NONE mapping");
  require_zero(pure, 1 << 20, "a PROT_NONE mapping");
  return passed();
}
