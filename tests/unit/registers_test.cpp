// registers/TID: what is written, the restart fix-up, and that no hostile file gets through.
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <set>
#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/kernel.h"
#include "engine/kinds/registers.h"
#include "engine/process/restart.h"
#include "engine/process/signal_frame.h"
#include "engine/process/stop.h"
#include "tests/unit/memory_image.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

using test::Child;
using test::eventually;

TEST(Restart, EveryCodeIsFixed) {
  user_regs_struct regs{};
  regs.orig_rax = SYS_read;
  regs.rip = 0x1000;
  for (const long code : {-512L, -513L, -514L}) {
    regs.rax = static_cast<unsigned long long>(code);
    const auto fixed = restart_fixed(regs, -1);
    EXPECT_EQ(fixed.rax, static_cast<unsigned long long>(SYS_read));
    EXPECT_EQ(fixed.rip, 0xffeu);
    EXPECT_EQ(fixed.orig_rax, ~0ull);
  }
  regs.rax = static_cast<unsigned long long>(-516L);
  EXPECT_EQ(restart_fixed(regs, SYS_nanosleep).rax, static_cast<unsigned long long>(SYS_nanosleep));
  EXPECT_EQ(restart_fixed(regs, SYS_nanosleep).rip, 0xffeu);
  EXPECT_EQ(restart_fixed(regs, -1).rax, static_cast<unsigned long long>(-EINTR));
  EXPECT_EQ(restart_fixed(regs, -1).rip, 0x1000u);
  regs.rax = 7;  // a call that has ended
  EXPECT_EQ(restart_fixed(regs, -1).rax, 7u);
  EXPECT_EQ(restart_fixed(regs, -1).rip, 0x1000u);
  regs.orig_rax = ~0ull;  // no call at all: rax is the program's
  regs.rax = static_cast<unsigned long long>(-512L);
  EXPECT_EQ(restart_fixed(regs, -1).rax, static_cast<unsigned long long>(-512L));
}

class Captured : public testing::Test {
 protected:
  static constexpr unsigned kMicroseconds = 30'000'000;
  Captured() : child_([] { return static_cast<int>(::usleep(kMicroseconds)); }) {
    EXPECT_TRUE(eventually([&] { return read_status(child_.pid()).state == 'S'; }));
    capture();
  }
  void capture() {
    StoppedProcess process(child_.pid());
    process.stop();
    for (const auto& thread : process.threads()) capture_registers(image_, "", *thread);
  }
  std::string path() const { return fmt::format("registers/{}", child_.pid()); }
  int parse_error() const {
    try {
      parse_registers(image_, "", child_.pid());
    } catch (const Error& e) {
      return e.err();
    }
    return 0;
  }

  Child child_;
  MemoryImage image_;
};

TEST_F(Captured, ASleepIsMadeAgain) {
  const Record record = Record::parse(image_.read(path()), path());
  const uint64_t nr = record.get_u64("rax");
  EXPECT_TRUE(nr == SYS_clock_nanosleep || nr == SYS_nanosleep) << nr;
  EXPECT_EQ(record.get_u64("orig_rax"), ~0ull);
}

TEST_F(Captured, ARestartedSleepIsFoundAgain) {
  // The second stop finds restart_syscall (219): the number must come from the code.
  image_.remove(path());
  image_.remove(path() + ".xsave");
  ::usleep(2000);
  capture();
  const uint64_t nr = Record::parse(image_.read(path()), path()).get_u64("rax");
  EXPECT_TRUE(nr == SYS_clock_nanosleep || nr == SYS_nanosleep) << nr;
}

TEST_F(Captured, ComesBack) {
  const RestoredRegisters registers = parse_registers(image_, "", child_.pid());
  EXPECT_EQ(registers.regs.cs, 0x33u);
  StoppedProcess process(child_.pid());
  process.stop();
  apply_registers(child_.pid(), registers);
  const auto now = process.threads().front()->tracee().registers();
  EXPECT_EQ(now.rip, registers.regs.rip);
  EXPECT_EQ(now.rsp, registers.regs.rsp);
  process.kill();
}

TEST_F(Captured, HostileRegistersAreRefused) {
  const Record record = Record::parse(image_.read(path()), path());
  const std::string original = image_.content(path());
  for (const char* name : {"rip", "rsp", "fs_base", "gs_base"}) {
    const std::string line = fmt::format("\n{} {}\n", name, record.get(name));
    image_.replace(path(), line, fmt::format("\n{} 0xffffffff81000000\n", name));
    EXPECT_EQ(parse_error(), EINVAL) << name;
    image_.content(path()) = original;
    // The kernel takes no such base; of the others it would make a process that ends at once.
    image_.replace(path(), line, fmt::format("\n{} {:#x}\n", name, user_space_end()));
    EXPECT_EQ(parse_error(), EINVAL) << name;
    image_.content(path()) = original;
  }
  image_.replace(path(), "\nrbp ", "\nrbq ");
  EXPECT_EQ(parse_error(), EINVAL);
  image_.content(path()) = original;
  image_.replace(path(), "\neflags " + record.get("eflags"), "\neflags 0xffffffff");
  EXPECT_EQ(parse_registers(image_, "", child_.pid()).regs.eflags & 0x3300, 0x200u);  // no IOPL, no TF
  image_.content(path()) = original;
  EXPECT_EQ(parse_error(), 0);
}

TEST_F(Captured, HostileXsaveAreasAreRefused) {
  std::string& area = image_.content(path() + ".xsave");
  const std::string original = area;
  area.resize(100);
  EXPECT_EQ(parse_error(), EINVAL);
  area = original;
  area[512 + 7] = '\x40';  // a feature that no CPU has
  EXPECT_EQ(parse_error(), ENOEXEC);
  area = original;
  area[512 + 15] = '\x80';  // the compacted format
  EXPECT_EQ(parse_error(), EINVAL);
  area = original;
  area[24 + 3] = '\x01';  // MXCSR
  EXPECT_EQ(parse_error(), EINVAL);
  area = original;
  const size_t line = image_.content(path()).find("xsave_component");
  if (line != std::string::npos) {
    image_.content(path()).insert(line, "xsave_component 2 18446744073709551615 256\n");
    EXPECT_EQ(parse_error(), EINVAL);
  }
}

TEST(Restart, EpollWaitDoesNotNotice) {
  Child child([] {
    const int epoll = ::epoll_create1(0);
    epoll_event event{};
    return ::epoll_wait(epoll, &event, 1, 300) == 0 ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return read_status(child.pid()).state == 'S'; }));
  for (int i = 0; i < 5; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    if (i % 2 == 0) process.leader().syscall(SYS_getpid);
    process.resume();
    ::usleep(2000);
  }
  EXPECT_EQ(child.join(), 0);
}

TEST(Kernel, EveryFeatureIsProbedAndNamed) {
  EXPECT_TRUE(kernel_has("pidfd_getfd"));
  EXPECT_TRUE(kernel_has("kcmp"));
  EXPECT_THROW(kernel_has("telepathy"), Error);
  std::set<std::string> names;
  for (const KernelFeature& f : kernel_features()) {
    EXPECT_TRUE(names.insert(f.name).second) << f.name;
    EXPECT_FALSE(f.used_for.empty() || f.instead.empty() || f.since.empty()) << f.name;
  }
  EXPECT_EQ(&kernel_features(), &kernel_features());  // probed once
}

}  // namespace
}  // namespace ckpt
