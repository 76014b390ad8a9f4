// The matrix registers of AMX and the permission to use them: tiles of a thread that spins, of one that waits in a system
// call, and of one that begins to use them only afterwards. On a CPU or a kernel without AMX there is nothing to check.
#include "selfcheck.h"

#include <cpuid.h>

#include <atomic>
#include <thread>

namespace {

// arch/x86/include/uapi/asm/prctl.h
constexpr long kGetSupported = 0x1021, kGetPermitted = 0x1022, kRequest = 0x1023;
constexpr unsigned kTileData = 18;
constexpr int kTiles = 8, kTileBytes = 1024;

std::atomic<bool> spin_end{false}, loaded[2];
int pipe_ends[2];

bool cpu_has_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 24 & 1) == 0) return false;
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
}

uint64_t permitted() {
  uint64_t mask = 0;
  must(syscall(SYS_arch_prctl, kGetPermitted, &mask), "ARCH_GET_XCOMP_PERM");
  return mask;
}

/// All eight tiles of 16 rows of 64 bytes.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Configuration) == 64);

struct Tiles {
  alignas(64) uint8_t byte[kTiles][kTileBytes];
};

// The instructions by name: nothing here needs a compiler that knows AMX.
void load(const Tiles& from) {
  static const Configuration configuration;
  asm volatile("ldtilecfg %0" ::"m"(configuration));
#define LOAD(n) asm volatile("tileloadd (%0,%1,1), %%tmm" #n ::"r"(from.byte[n]), "r"(64L) : "memory")
  LOAD(0); LOAD(1); LOAD(2); LOAD(3); LOAD(4); LOAD(5); LOAD(6); LOAD(7);
#undef LOAD
}

void store(Tiles& to) {
#define STORE(n) asm volatile("tilestored %%tmm" #n ", (%0,%1,1)" ::"r"(to.byte[n]), "r"(64L) : "memory")
  STORE(0); STORE(1); STORE(2); STORE(3); STORE(4); STORE(5); STORE(6); STORE(7);
#undef STORE
  asm volatile("tilerelease");
}

void hold(int index, bool in_system_call) {
  static Tiles in[2], out[2];
  fill(&in[index], sizeof in[index], static_cast<uint64_t>(index) + 1);
  load(in[index]);
  loaded[index] = true;
  char byte = 0;
  if (in_system_call)
    must(syscall(SYS_read, pipe_ends[0], &byte, 1), "read");
  else
    while (!spin_end) __builtin_ia32_pause();
  store(out[index]);
  require_filled(&out[index], sizeof out[index], static_cast<uint64_t>(index) + 1,
                 in_system_call ? "the tiles of the waiting thread" : "the tiles of the spinning thread");
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const bool tiles = cpu_has_tiles();
  std::thread spinner, waiter;
  if (tiles) {
    must(syscall(SYS_arch_prctl, kRequest, kTileData), "ARCH_REQ_XCOMP_PERM");
    must(pipe(pipe_ends), "pipe");
    spinner = std::thread(hold, 0, false);
    waiter = std::thread(hold, 1, true);
    wait_until([] { return loaded[0] && loaded[1]; }, "the tiles are loaded");
  }
  const uint64_t before = tiles ? permitted() : 0;
  ready();
  wait_for_go();
  if (!tiles) return passed();
  REQUIRE(permitted() == before, "the permitted features were %llx, are %llx", static_cast<unsigned long long>(before),
          static_cast<unsigned long long>(permitted()));
  spin_end = true;
  spinner.join();
  must(write(pipe_ends[1], "x", 1), "write");
  waiter.join();
  static Tiles in, out;
  fill(&in, sizeof in, 3);
  load(in);
  store(out);
  require_filled(&out, sizeof out, 3, "the tiles of the main thread");
  return passed();
}
