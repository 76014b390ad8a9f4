#include "engine/kinds/registers.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/kernel.h"
#include "engine/process/restart.h"
#include "engine/process/signal_frame.h"
#include "engine/process/xsave_layout.h"

namespace ckpt {
namespace {

struct Name {
  const char* name;
  unsigned long long user_regs_struct::*field;
};

constexpr std::array<Name, 27> kNames = {{
    {"rax", &user_regs_struct::rax},
    {"rbx", &user_regs_struct::rbx},
    {"rcx", &user_regs_struct::rcx},
    {"rdx", &user_regs_struct::rdx},
    {"rsi", &user_regs_struct::rsi},
    {"rdi", &user_regs_struct::rdi},
    {"rbp", &user_regs_struct::rbp},
    {"rsp", &user_regs_struct::rsp},
    {"r8", &user_regs_struct::r8},
    {"r9", &user_regs_struct::r9},
    {"r10", &user_regs_struct::r10},
    {"r11", &user_regs_struct::r11},
    {"r12", &user_regs_struct::r12},
    {"r13", &user_regs_struct::r13},
    {"r14", &user_regs_struct::r14},
    {"r15", &user_regs_struct::r15},
    {"rip", &user_regs_struct::rip},
    {"eflags", &user_regs_struct::eflags},
    {"cs", &user_regs_struct::cs},
    {"ss", &user_regs_struct::ss},
    {"ds", &user_regs_struct::ds},
    {"es", &user_regs_struct::es},
    {"fs", &user_regs_struct::fs},
    {"gs", &user_regs_struct::gs},
    {"fs_base", &user_regs_struct::fs_base},
    {"gs_base", &user_regs_struct::gs_base},
    {"orig_rax", &user_regs_struct::orig_rax},
}};

// Layout of the XSAVE area: Intel's manual, volume 1, chapter 13.
constexpr size_t kLegacy = 512, kHeader = 64, kMxcsr = 24;
constexpr uint64_t kX87AndSse = 3;
constexpr uint64_t kUserFlags = 0x40cd5;  // CF PF AF ZF SF DF OF AC
constexpr uint64_t kFixedFlags = 0x202;   // IF and the bit that is always one

const char* feature_name(unsigned bit) {
  static constexpr std::array<const char*, 20> names = {"x87",
                                                        "SSE",
                                                        "AVX",
                                                        "MPX bounds",
                                                        "MPX configuration",
                                                        "AVX-512 masks",
                                                        "AVX-512 upper halves",
                                                        "AVX-512 registers 16-31",
                                                        "processor trace",
                                                        "protection keys",
                                                        "PASID",
                                                        "CET user",
                                                        "CET supervisor",
                                                        "HDC",
                                                        "UINTR",
                                                        "LBR",
                                                        "HWP",
                                                        "AMX configuration",
                                                        "AMX tiles",
                                                        "APX"};
  return bit < names.size() ? names[bit] : "unknown";
}

template <typename T>
T load(std::span<const std::byte> from, size_t offset) {
  T value{};
  std::memcpy(&value, from.data() + offset, sizeof value);
  return value;
}

/// Which CPU components the header names; throws where it is no standard-format header.
uint64_t checked_features(std::span<const std::byte> area, const std::string& where) {
  if (area.size() < kLegacy + kHeader)
    fail(EINVAL, "{}: {} bytes are too few for an XSAVE area", where, area.size());
  const std::span<const std::byte> header = area.subspan(kLegacy, kHeader);
  if (!std::all_of(header.begin() + 8, header.end(), [](std::byte b) { return b == std::byte{0}; })) {
    fail(EINVAL, "{}: the XSAVE header is not of the standard format", where);
  }
  const uint64_t features = load<uint64_t>(header, 0);
  const uint64_t missing = features & ~(xsave_layout().features | kX87AndSse);
  if (missing != 0) {
    const auto bit = static_cast<unsigned>(__builtin_ctzll(missing));
    fail(ENOEXEC, "{}: the thread uses a CPU feature that this machine does not have: {} (XSAVE bit {})",
         where, feature_name(bit), bit);
  }
  // A reserved MXCSR bit would be a general protection fault; bits 0-15 exist on every CPU with DAZ.
  if ((load<uint32_t>(area, kMxcsr) & 0xffff0000) != 0)
    fail(EINVAL, "{}: reserved bits of MXCSR are set", where);
  return features;
}

/// Components stand at other offsets on other CPUs: each is moved to its place here.
std::vector<std::byte> relocate(std::span<const std::byte> area, const Record& record) {
  const std::string where = record.where() + ".xsave";
  const uint64_t features = checked_features(area, where);
  std::vector<std::byte> here(area.begin(), area.begin() + kLegacy + kHeader);
  uint64_t placed = features & kX87AndSse;
  for (const std::string& line : record.all("xsave_component")) {
    const auto words = split_words(line);
    std::array<uint64_t, 3> v{};
    for (size_t i = 0; i < v.size(); ++i) {
      const auto number = words.size() == v.size() ? parse_u64(words[i]) : std::nullopt;
      if (!number) fail(EINVAL, "{}: '{}' is not an xsave_component", record.where(), line);
      v[i] = *number;
    }
    if (v[0] < 2 || v[0] > 62 || (features >> v[0] & 1) == 0) {
      fail(EINVAL, "{}: xsave_component {} is not in use", record.where(), v[0]);
    }
    const XsaveComponent& to = xsave_layout().components[v[0]];
    if (v[2] != to.size) {
      fail(ENOEXEC, "{}: {} takes {} bytes on this CPU, {} in the image", where,
           feature_name(static_cast<unsigned>(v[0])), to.size, v[2]);
    }
    if (v[1] < kLegacy + kHeader || v[1] > area.size() || v[2] > area.size() - v[1]) {
      fail(EINVAL, "{}: xsave_component {} is not inside the file", where, v[0]);
    }
    if (here.size() < to.offset + to.size) here.resize(to.offset + to.size);
    std::copy_n(area.begin() + static_cast<ptrdiff_t>(v[1]), to.size,
                here.begin() + static_cast<ptrdiff_t>(to.offset));
    placed |= uint64_t{1} << v[0];
  }
  if (placed != features) fail(EINVAL, "{}: a component in use has no xsave_component line", record.where());
  return here;
}

uint64_t user_address(const Record& record, const char* name) { return record.get_u64(name, user_space_end() - 1); }

}  // namespace

void capture_registers(ImageSink& image, const std::string& prefix, RemoteSyscall& thread) {
  const user_regs_struct own = thread.own_registers();
  const long repeat_nr = call_to_repeat(thread.tracee(), own);
  const user_regs_struct regs = restart_fixed(sleep_the_rest(own, repeat_nr), repeat_nr);
  const std::vector<std::byte> area = thread.tracee().xsave();
  Record out;
  for (const Name& n : kNames) out.add_hex(n.name, regs.*n.field);
  const uint64_t features = area.size() >= kLegacy + kHeader ? load<uint64_t>(area, kLegacy) : 0;
  for (unsigned bit = 2; bit < 63; ++bit) {
    if ((features >> bit & 1) == 0) continue;
    const XsaveComponent& c = xsave_layout().components[bit];
    out.add("xsave_component", fmt::format("{} {} {}", bit, c.offset, c.size));
  }
  const std::string path = fmt::format("{}registers/{}", prefix, thread.tid());
  image.put(path, out.text());
  image.put(path + ".xsave", std::string_view(reinterpret_cast<const char*>(area.data()), area.size()));
}

std::optional<uint32_t> key_rights(pid_t tid) {
  constexpr unsigned kPkruBit = 9;
  if ((xsave_layout().features >> kPkruBit & 1) == 0) return std::nullopt;
  const XsaveComponent& pkru = xsave_layout().components[kPkruBit];
  std::vector<std::byte> area(pkru.offset + pkru.size);
  iovec io = {area.data(), area.size()};
  if (::ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &io) != 0) fail_errno("{}: XSAVE state", tid);
  // In its initial state, 0, a component is not written.
  return (load<uint64_t>(area, kLegacy) >> kPkruBit & 1) != 0 ? load<uint32_t>(area, pkru.offset) : 0;
}

RestoredRegisters parse_registers(const ImageSource& image, const std::string& prefix, pid_t tid) {
  const std::string path = fmt::format("{}registers/{}", prefix, tid);
  const Record record = Record::parse(image.read(path, 64 << 10), path);
  RestoredRegisters made;
  for (const Name& n : kNames) made.regs.*n.field = record.get_u64(n.name);
  user_address(record, "rip");
  user_address(record, "rsp");
  user_address(record, "fs_base");
  user_address(record, "gs_base");
  // 64-bit user code and data (arch/x86/include/asm/segment.h); the others are of no use there.
  made.regs.cs = 0x33;
  made.regs.ss = 0x2b;
  made.regs.ds = made.regs.es = made.regs.fs = made.regs.gs = 0;
  made.regs.eflags = (made.regs.eflags & kUserFlags) | kFixedFlags;
  made.regs.orig_rax = static_cast<unsigned long long>(-1);
  const std::string area = image.read(path + ".xsave", 64 << 10);
  made.xsave = relocate(std::as_bytes(std::span(area)), record);
  return made;
}

bool RestoredRegisters::has_tiles() const {
  constexpr unsigned kTileData = 18;
  return (load<uint64_t>(xsave, kLegacy) >> kTileData & 1) != 0;
}

void apply_registers(pid_t tid, const RestoredRegisters& registers) {
  const auto request = [tid](__ptrace_request what, uintptr_t set, void* data, size_t size,
                             const char* name) {
    iovec io = {data, size};
    if (::ptrace(what, tid, reinterpret_cast<void*>(set), &io) < 0) fail_errno("thread {}: {}", tid, name);
    return io.iov_len;
  };
  // The kernel wants its own size exactly: what the image does not have is in its initial state.
  std::vector<std::byte> area(64 << 10);
  area.resize(request(PTRACE_GETREGSET, NT_X86_XSTATE, area.data(), area.size(), "PTRACE_GETREGSET"));
  if (area.size() < registers.xsave.size()) {
    fail(ENOEXEC, "thread {}: its XSAVE area of {} bytes is larger than this kernel's of {}", tid,
         registers.xsave.size(), area.size());
  }
  std::fill(std::copy(registers.xsave.begin(), registers.xsave.end(), area.begin()), area.end(),
            std::byte{0});
  request(PTRACE_SETREGSET, NT_X86_XSTATE, area.data(), area.size(), "PTRACE_SETREGSET of the XSAVE area");
  user_regs_struct regs = registers.regs;
  request(PTRACE_SETREGSET, NT_PRSTATUS, &regs, sizeof regs, "PTRACE_SETREGSET");
}

}  // namespace ckpt
