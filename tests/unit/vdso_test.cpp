// The code of a vDSO, led elsewhere: this kernel's own, in a copy that jumps to the original or makes system calls.
#include "engine/memory/vdso_code.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include "engine/base/error.h"
#include "engine/image/maps.h"
#include "engine/memory/own_maps.h"

namespace ckpt {
namespace {

class VdsoTest : public testing::Test {
 protected:
  void SetUp() override {
    base_ = ::getauxval(AT_SYSINFO_EHDR);
    std::ifstream file("/proc/self/maps");
    const std::string maps((std::istreambuf_iterator<char>(file)), {});
    for (const Vma& vma : parse_maps(maps, "/proc/self/maps")) {
      if (vma.path != "[vdso]") continue;
      const auto* bytes = reinterpret_cast<const std::byte*>(vma.start);
      code_.assign(bytes, bytes + vma.size());
    }
    if (code_.empty()) GTEST_SKIP() << "the kernel runs without a vDSO";
  }
  void TearDown() override {
    if (copy_ != nullptr) ::munmap(copy_, code_.size());
  }

  /// The copy made executable; its function of that name.
  template <typename F>
  F* function(const std::string& name) {
    if (copy_ == nullptr) {
      copy_ = ::mmap(nullptr, code_.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      EXPECT_NE(copy_, MAP_FAILED);
      std::memcpy(copy_, code_.data(), code_.size());
      ::mprotect(copy_, code_.size(), PROT_READ | PROT_EXEC);
    }
    for (const VdsoFunction& f : vdso_functions(code_, "copy")) {
      if (f.name == name) return reinterpret_cast<F*>(static_cast<char*>(copy_) + f.offset);
    }
    return nullptr;
  }

  static int64_t clock_of_kernel() {
    timespec t{};
    ::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000 + t.tv_nsec;
  }
  void expect_works() {
    auto* get_time = function<int(clockid_t, timespec*)>("clock_gettime");
    ASSERT_NE(get_time, nullptr);
    timespec t{};
    const int64_t before = clock_of_kernel();
    ASSERT_EQ(get_time(CLOCK_MONOTONIC, &t), 0);
    const int64_t now = t.tv_sec * 1'000'000'000 + t.tv_nsec;
    EXPECT_LE(before, now);
    EXPECT_LE(now, clock_of_kernel());
    if (auto* get_cpu = function<long(unsigned*, unsigned*, void*)>("getcpu"); get_cpu != nullptr) {
      unsigned cpu = ~0u, node = ~0u;
      EXPECT_EQ(get_cpu(&cpu, &node, nullptr), 0);
      EXPECT_LT(cpu, static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_CONF)));
    }
    if (auto* seconds = function<time_t(time_t*)>("time"); seconds != nullptr) {
      time_t there = 0;
      const time_t got = seconds(&there);
      EXPECT_EQ(got, there);
      EXPECT_LE(std::abs(got - ::time(nullptr)), 60);
    }
  }

  uint64_t base_ = 0;
  std::vector<std::byte> code_;
  void* copy_ = nullptr;
};

TEST_F(VdsoTest, every_function_is_found_once) {
  const std::vector<VdsoFunction> functions = vdso_functions(code_, "own");
  for (const char* name : {"clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"}) {
    EXPECT_EQ(std::count_if(functions.begin(), functions.end(), [&](auto& f) { return f.name == name; }), 1) << name;
  }
  EXPECT_TRUE(std::is_sorted(functions.begin(), functions.end(), [](auto& a, auto& b) { return a.offset < b.offset; }));
}

TEST_F(VdsoTest, either_hash_table_is_enough) {
  const std::vector<VdsoFunction> both = vdso_functions(code_, "own");
  Elf64_Ehdr header;
  std::memcpy(&header, code_.data(), sizeof header);
  for (const int64_t tag : {int64_t{DT_HASH}, int64_t{DT_GNU_HASH}}) {
    std::vector<std::byte> changed = code_;
    for (size_t i = 0; i < header.e_phnum; ++i) {
      Elf64_Phdr segment;
      std::memcpy(&segment, code_.data() + header.e_phoff + i * sizeof segment, sizeof segment);
      if (segment.p_type != PT_DYNAMIC) continue;
      for (size_t at = segment.p_offset; at < segment.p_offset + segment.p_filesz; at += sizeof(Elf64_Dyn)) {
        Elf64_Dyn entry;
        std::memcpy(&entry, code_.data() + at, sizeof entry);
        if (entry.d_tag != tag) continue;
        entry.d_tag = DT_DEBUG;
        std::memcpy(changed.data() + at, &entry, sizeof entry);
      }
    }
    std::vector<VdsoFunction> one;
    try {
      one = vdso_functions(changed, "own");
    } catch (const Error&) {
      continue;  // this kernel's has only the one that was taken away
    }
    ASSERT_EQ(one.size(), both.size());
    for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].name, both[i].name);
  }
}

TEST_F(VdsoTest, leads_to_the_functions_of_another) {
  redirect_vdso(code_, "copy", vdso_functions(code_, "own"), base_);
  expect_works();
  EXPECT_EQ(reinterpret_cast<unsigned char*>(function<char>("clock_gettime"))[1], 0xb8) << "no jump";
}

TEST_F(VdsoTest, leads_to_system_calls_where_there_is_none) {
  redirect_vdso(code_, "copy", {}, 0);
  expect_works();
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(function<char>("clock_gettime")), 0xb8) << "no system call";
}

TEST_F(VdsoTest, an_unknown_function_fails_with_enosys) {
  std::string text(reinterpret_cast<const char*>(code_.data()), code_.size());
  for (size_t at; (at = text.find("getcpu")) != std::string::npos;) text.replace(at, 6, "getsgx");
  std::memcpy(code_.data(), text.data(), text.size());
  redirect_vdso(code_, "copy", {}, 0);
  auto* unknown = function<long()>("getsgx");
  ASSERT_NE(unknown, nullptr);
  EXPECT_EQ(unknown(), -ENOSYS);
}

TEST_F(VdsoTest, what_is_cut_off_is_refused) {
  for (size_t size = 0; size < code_.size(); size += 8) {
    std::vector<std::byte> part(code_.begin(), code_.begin() + static_cast<ptrdiff_t>(size));
    try {
      redirect_vdso(part, "part", {}, 0);
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINVAL) << e.sentence();
      continue;
    }
    EXPECT_GT(size, 1024u) << "a vDSO of so few bytes";
  }
}

TEST(OwnMaps, AreReadWhileOtherThreadsChangeThem) {
  constexpr size_t kPages = 400;
  auto* memory = static_cast<char*>(::mmap(nullptr, kPages * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<bool> stop{false};
  std::thread changing([&] {
    // Many mappings, that are one again when the reader is in the middle of them.
    while (!stop) {
      for (size_t page = 0; page < kPages; page += 2) ::mprotect(memory + page * 4096, 4096, PROT_NONE);
      ::mprotect(memory, kPages * 4096, PROT_READ);
    }
  });
  for (int i = 0; i < 100; ++i) EXPECT_NO_THROW(EXPECT_FALSE(read_own_maps("/proc/self/smaps").empty()));
  stop = true;
  changing.join();
  ::munmap(memory, kPages * 4096);
}

}  // namespace
}  // namespace ckpt
