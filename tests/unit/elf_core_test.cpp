#include "engine/image/elf_core.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "tests/unit/memory_image.h"

namespace ckpt {
namespace {

constexpr char kStatus[] =
    "Name:\tcounter\nTgid:\t100\nPid:\t100\nPPid:\t1\nUid:\t5\t5\t5\t5\nNSpgid:\t100\nNSsid:\t100\n";

std::string registers(uint64_t rip) {
  Record r;
  for (const char* name :
       {"r15", "r14", "r13", "r12", "rbp",      "rbx", "r11",    "r10", "r9", "r8",      "rax",
        "rcx", "rdx", "rsi", "rdi", "orig_rax", "cs",  "eflags", "rsp", "ss", "fs_base", "gs_base"}) {
    r.add_hex(name, 7);
  }
  r.add_hex("rip", rip);
  return r.text();
}

/// Two threads; a file mapping with one copied page, a heap with a hole in it, an untouched mapping.
std::shared_ptr<MemoryImage> sample() {
  auto image = std::make_shared<MemoryImage>();
  image->put("status", kStatus);
  image->put("cmdline", std::string("counter\0-x\0", 11));
  image->put("auxv", std::string(16, '\1'));
  image->put("registers/100", registers(0x1111));
  image->put("registers/90", registers(0x2222));
  image->put("registers/90.xsave", std::string(570, 'x'));
  image->put("maps",
             "10000-14000 r-xp 00001000 08:01 99 /bin/counter\n"
             "20000-25000 rw-p 00000000 00:00 0 [heap]\n"
             "30000-38000 rw-p 00000000 00:00 0 \n");
  image->put("segments/11000-12000", std::string(4096, 'f'));
  image->put("segments/20000-22000", std::string(8192, 'h'));
  image->put("segments/24000-25000", std::string(4096, 'i'));
  return image;
}

template <typename T>
T at(const ElfCore& core, uint64_t offset) {
  T value{};
  core.read(offset, std::as_writable_bytes(std::span<T, 1>(&value, 1)));
  return value;
}

std::vector<Elf64_Phdr> program_headers(const ElfCore& core) {
  const auto header = at<Elf64_Ehdr>(core, 0);
  std::vector<Elf64_Phdr> list;
  for (int i = 0; i < header.e_phnum; ++i) {
    list.push_back(at<Elf64_Phdr>(core, header.e_phoff + static_cast<uint64_t>(i) * sizeof(Elf64_Phdr)));
  }
  return list;
}

/// The contents of all notes of a type.
std::vector<std::string> notes(const ElfCore& core, uint32_t type) {
  const Elf64_Phdr segment = program_headers(core).at(0);
  std::vector<std::string> list;
  for (uint64_t offset = segment.p_offset; offset < segment.p_offset + segment.p_filesz;) {
    const auto note = at<Elf64_Nhdr>(core, offset);
    const uint64_t content = offset + sizeof note + (note.n_namesz + 3) / 4 * 4;
    std::string bytes(note.n_descsz, '\0');
    core.read(content, std::as_writable_bytes(std::span(bytes)));
    if (note.n_type == type) list.push_back(bytes);
    offset = content + (note.n_descsz + 3) / 4 * 4;
  }
  return list;
}

TEST(ElfCore, IsACoreOfX86) {
  const ElfCore core(sample());
  const auto header = at<Elf64_Ehdr>(core, 0);
  EXPECT_EQ(0, std::memcmp(header.e_ident, ELFMAG, SELFMAG));
  EXPECT_EQ(header.e_type, ET_CORE);
  EXPECT_EQ(header.e_machine, EM_X86_64);
}

TEST(ElfCore, ThreadsBeginWithTheMainThread) {
  const ElfCore core(sample());
  const auto statuses = notes(core, NT_PRSTATUS);
  ASSERT_EQ(statuses.size(), 2u);
  elf_prstatus first{}, second{};
  std::memcpy(&first, statuses[0].data(), sizeof first);
  std::memcpy(&second, statuses[1].data(), sizeof second);
  EXPECT_EQ(first.pr_pid, 100);
  EXPECT_EQ(second.pr_pid, 90);
  user_regs_struct regs{};
  std::memcpy(&regs, &first.pr_reg, sizeof regs);
  EXPECT_EQ(regs.rip, 0x1111u);
  EXPECT_EQ(notes(core, NT_X86_XSTATE).at(0), std::string(570, 'x'));
  EXPECT_EQ(notes(core, NT_FPREGSET).at(0), std::string(512, 'x'));
  EXPECT_EQ(notes(core, NT_AUXV).at(0), std::string(16, '\1'));
}

/// An area with one byte repeated in each component, and the lines that say where they are.
struct XsaveArea {
  explicit XsaveArea(size_t size, uint64_t xcr0, uint64_t in_use) : bytes(size, '\0') {
    set(464, xcr0);
    set(512, in_use);
  }
  void set(size_t at, uint64_t value) { std::memcpy(&bytes[at], &value, sizeof value); }
  void add(unsigned bit, size_t offset, size_t size, char fill) {
    std::fill_n(&bytes[offset], size, fill);
    lines += fmt::format("xsave_component {} {} {}\n", bit, offset, size);
  }
  std::string note() const {
    const auto image = sample();
    image->put("registers/100.xsave", bytes);
    image->content("registers/100") += lines;
    return notes(ElfCore(image), NT_X86_XSTATE).at(0);
  }
  std::string bytes, lines;
};

TEST(ElfCore, AnXsaveAreaWithCloseProtectionKeysIsLaidOutForGdb) {
  XsaveArea area(2440, 0x207, 0x206);  // AMD's
  area.add(2, 576, 256, 'a');
  area.add(9, 2432, 8, 'k');
  XsaveArea wanted(2696, 0x207, 0x206);
  wanted.add(2, 576, 256, 'a');
  wanted.add(9, 2688, 8, 'k');
  EXPECT_EQ(area.note(), wanted.bytes);
}

TEST(ElfCore, TilesAreNotForGdb) {
  XsaveArea area(11008, 0x602e7, 0x602e6);
  area.add(2, 576, 256, 'a');
  area.add(5, 1088, 64, 'm');
  area.add(6, 1152, 512, 'u');
  area.add(7, 1664, 1024, 'r');
  area.add(9, 2688, 8, 'k');
  std::string wanted = area.bytes.substr(0, 2696);
  area.add(17, 2752, 64, 'c');
  area.add(18, 2816, 8192, 't');
  XsaveArea masked(576, 0x2e7, 0x2e6);
  wanted.replace(0, 576, masked.bytes);
  EXPECT_EQ(area.note(), wanted);
}

TEST(ElfCore, AHostileXsaveComponentIsRefused) {
  for (const char* line : {"2 18446744073709551600 256", "2 400 256", "2 576 99999999999", "2 576", "x y z"}) {
    XsaveArea area(600, 7, 6);
    area.lines = fmt::format("xsave_component {}\n", line);
    EXPECT_THROW(area.note(), Error) << line;
  }
}

TEST(ElfCore, TheVdsoIsInIt) {
  auto image = sample();
  image->put("vdso", std::string(8192, 'v'));
  image->content("maps") += "7ff000000000-7ff000002000 r-xp 00000000 00:00 0 [vdso]\n";
  const ElfCore core(image);
  const Elf64_Phdr last = program_headers(core).back();
  EXPECT_EQ(last.p_vaddr, 0x7ff000000000u);
  std::string bytes(last.p_filesz, '?');
  core.read(last.p_offset, std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(bytes, std::string(8192, 'v'));
}

TEST(ElfCore, NotesTellOfTheProcess) {
  const ElfCore core(sample());
  elf_prpsinfo info{};
  std::memcpy(&info, notes(core, NT_PRPSINFO).at(0).data(), sizeof info);
  EXPECT_STREQ(info.pr_fname, "counter");
  EXPECT_STREQ(info.pr_psargs, "counter -x");
  EXPECT_EQ(info.pr_uid, 5u);
  const std::string files = notes(core, NT_FILE).at(0);
  std::array<uint64_t, 5> numbers{};
  std::memcpy(numbers.data(), files.data(), sizeof numbers);
  EXPECT_EQ(numbers, (std::array<uint64_t, 5>{1, 4096, 0x10000, 0x14000, 1}));
  EXPECT_STREQ(files.c_str() + sizeof numbers, "/bin/counter");
}

TEST(ElfCore, LoadsCoverEveryMapping) {
  const ElfCore core(sample());
  uint64_t file = 0, heap = 0, untouched = 0;
  for (const Elf64_Phdr& p : program_headers(core)) {
    if (p.p_type != PT_LOAD) continue;
    if (p.p_vaddr < 0x20000)
      file += p.p_memsz;
    else if (p.p_vaddr < 0x30000)
      heap += p.p_filesz;
    else
      untouched += p.p_memsz + p.p_filesz;
  }
  EXPECT_EQ(file, 0x4000u);
  EXPECT_EQ(heap, 0x5000u);       // the hole in touched anonymous memory reads as zeros
  EXPECT_EQ(untouched, 0x8000u);  // nothing of it in the file
}

TEST(ElfCore, ReadsMemoryAcrossPieces) {
  const ElfCore core(sample());
  for (const Elf64_Phdr& p : program_headers(core)) {
    if (p.p_type != PT_LOAD || p.p_vaddr != 0x20000) continue;
    std::string bytes(0x5000, '?');
    core.read(p.p_offset, std::as_writable_bytes(std::span(bytes)));
    EXPECT_EQ(bytes, std::string(8192, 'h') + std::string(8192, '\0') + std::string(4096, 'i'));
    return;
  }
  FAIL() << "no PT_LOAD for the heap";
}

TEST(ElfCore, ReadsAsAWholeTheSameAsByteByByte) {
  const ElfCore core(sample());
  std::string whole(core.size(), '\0'), pieces(core.size(), '\0');
  core.read(0, std::as_writable_bytes(std::span(whole)));
  for (size_t i = 0; i < pieces.size(); i += 777) {
    core.read(i,
              std::as_writable_bytes(std::span(pieces).subspan(i, std::min<size_t>(777, pieces.size() - i))));
  }
  EXPECT_TRUE(whole == pieces);
  std::byte beyond{};
  EXPECT_THROW(core.read(core.size(), {&beyond, 1}), Error);
}

TEST(ElfCore, HostileImagesAreRefused) {
  const auto refused = [](auto&& edit) {
    auto image = sample();
    edit(*image);
    try {
      ElfCore core(image);
    } catch (const Error& e) {
      return e.err() == EINVAL;
    }
    return false;
  };
  EXPECT_TRUE(refused([](MemoryImage& i) { i.put("segments/11800-12800", std::string(4096, 'f')); }));
  EXPECT_TRUE(refused([](MemoryImage& i) { i.put("segments/11000-13000", std::string(8192, 'f')); }));
  EXPECT_TRUE(refused([](MemoryImage& i) { i.put("segments/zz", ""); }));
  EXPECT_TRUE(refused([](MemoryImage& i) { i.put("segments/0-ffffffffffffffff", ""); }));
  EXPECT_TRUE(refused([](MemoryImage& i) { i.content("maps") += "24000-26000 rw-p 00000000 00:00 0 \n"; }));
  EXPECT_TRUE(refused([](MemoryImage& i) { i.content("registers/90") = "rip ?\n"; }));
}

TEST(ElfCore, MoreMappingsThanAnElfHeaderCounts) {
  auto image = sample();
  std::string maps;
  constexpr int kMappings = 70'000;
  for (uint64_t i = 0; i < kMappings; ++i) {
    maps += fmt::format("{:x}-{:x} rw-p 00000000 00:00 0 \n", 0x100000 + i * 0x2000, 0x101000 + i * 0x2000);
  }
  image->content("maps") = maps;
  const ElfCore core(image);
  const auto header = at<Elf64_Ehdr>(core, 0);
  EXPECT_EQ(header.e_phnum, PN_XNUM);
  EXPECT_EQ(at<Elf64_Shdr>(core, header.e_shoff).sh_info, kMappings + 1u);
}

}  // namespace
}  // namespace ckpt
