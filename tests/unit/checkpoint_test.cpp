// checkpoint() from end to end, into a store in memory; and what it refuses, the process running on
// untouched.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <thread>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/checkpoint_checks.h"
#include "engine/engine.h"
#include "engine/kinds/registers.h"
#include "engine/process/procfs.h"
#include "tests/unit/memory_store.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

using test::Child;
using test::close_all;
using test::eventually;
using test::Shared;

struct Beat {
  std::atomic<int> ready{0};
  std::atomic<uint64_t> count{0};
};

int beat_for_ever(Beat* beat) {
  beat->ready = 1;
  for (;;) ++beat->count;
}

bool goes_on(Beat& beat) {
  const uint64_t before = beat.count;
  return eventually([&] { return beat.count > before + 1000; });
}

class CheckpointTest : public testing::Test {
 protected:
  int refused(pid_t pid, std::string* sentence = nullptr, const CheckpointOptions& how = {}) {
    try {
      checkpoint(store_, pid, Caller::self(), how);
    } catch (const Error& e) {
      if (sentence != nullptr) *sentence = e.sentence();
      return e.err();
    }
    return 0;
  }

  static CheckpointOptions options(AfterCapture after, std::string name = {}) {
    CheckpointOptions made;
    made.after = after;
    made.name = std::move(name);
    return made;
  }

  MemoryStore store_;
};

TEST_F(CheckpointTest, TaggedAddressesAreRefused) {
  // A CPU that has them is rare: the text of one.
  std::string text = read_file("/proc/self/status");
  const size_t known = text.find("untag_mask:");
  if (known != std::string::npos) text.erase(known, text.find('\n', known) + 1 - known);
  EXPECT_FALSE(parse_status(text, ::getpid()).address_masking);
  EXPECT_FALSE(parse_status("untag_mask:\t0xffffffffffffffff\n" + text, ::getpid()).address_masking);
  const ProcStatus status = parse_status("untag_mask:\t0x81ffffffffffffff\n" + text, ::getpid());
  EXPECT_TRUE(status.address_masking);
  Child child([] { return ::pause(); });
  ProcStatus other = read_status(child.pid());
  other.address_masking = status.address_masking;
  Refusals refusals;
  EXPECT_FALSE(refuse_process(child.pid(), open_proc(child.pid()).get(), other, refusals));
  EXPECT_NE(refusals.text().find("LAM"), std::string::npos) << refusals.text();
}

/// With no capability at all: what a mount of a plain user must do with.
TEST_F(CheckpointTest, APlainUserTakesTheCheckpointOfHisOwnProcess) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody";
  const auto become_nobody = [] {
    constexpr uid_t kNobody = 65534;
    if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
        ::setresuid(kNobody, kNobody, kNobody) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
      ::_exit(1);
    }
  };
  const pid_t target = ::fork();
  if (target == 0) {
    close_all();
    become_nobody();
    ::prctl(PR_SET_NAME, "ready");
    for (;;) ::pause();
  }
  EXPECT_TRUE(eventually([&] { return read_status(target).name == "ready"; }));
  const pid_t user = ::fork();
  if (user == 0) {
    become_nobody();
    std::string sentence;
    const int err = refused(target, &sentence);
    if (err != 0) std::fprintf(stderr, "%s\n", sentence.c_str());
    ::_exit(err == 0 && store_.stored.size() == 1 ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(user, &status, 0), user);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_status(target).tracer, 0);
  ::kill(target, SIGKILL);
  ::waitpid(target, &status, 0);
}

TEST_F(CheckpointTest, WritesAnImageAndTheProcessGoesOn) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  const CheckpointResult result = checkpoint(store_, child.pid(), Caller::self(), {});
  EXPECT_EQ(result.name, std::to_string(child.pid()));
  EXPECT_GT(result.stop_ns, 0u);
  EXPECT_TRUE(goes_on(*beat));
  EXPECT_EQ(read_status(child.pid()).tracer, 0);
  const auto image = store_.open_image(result.name);
  EXPECT_EQ(result.time_ns, image->info().header.time_ns);
  EXPECT_GT(result.time_ns, 0u);
  for (const char* path : {"maps", "smaps", "cmdline", "environ", "auxv", "status", "limits", "exe", "cwd",
                           "root", "manifest", "fds/0", "signals"}) {
    EXPECT_TRUE(image->has(path)) << path;
  }
  EXPECT_FALSE(image->below("segments").empty());
  const RestoredRegisters registers = parse_registers(*image, "", child.pid());
  EXPECT_EQ(registers.regs.orig_rax, ~0ull);
  EXPECT_NE(image->read("status").find("TracerPid:\t0\n"), std::string::npos);
}

TEST_F(CheckpointTest, ExitEndsTheProcessAfterTheCommit) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  store_.fail_commits = true;
  EXPECT_EQ(refused(child.pid(), nullptr, options(AfterCapture::exit)), ENOSPC);
  EXPECT_TRUE(goes_on(*beat));
  store_.fail_commits = false;
  EXPECT_EQ(refused(child.pid(), nullptr, options(AfterCapture::exit, "last")), 0);
  EXPECT_TRUE(store_.has_image("last"));
  EXPECT_EQ(child.join(), 1000 + SIGKILL);
}

TEST_F(CheckpointTest, StopLeavesItStopped) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  EXPECT_EQ(refused(child.pid(), nullptr, options(AfterCapture::stop)), 0);
  EXPECT_TRUE(eventually([&] { return read_status(child.pid()).state == 'T'; }));
  // One that is stopped is checkpointed as well, and stays stopped.
  EXPECT_EQ(refused(child.pid()), 0);
  EXPECT_TRUE(eventually([&] { return read_status(child.pid()).state == 'T'; }));
  EXPECT_NE(store_.open_image(std::to_string(child.pid()))->read("status").find("State:\tT (stopped)"),
            std::string::npos);
  ::kill(child.pid(), SIGCONT);
  EXPECT_TRUE(goes_on(*beat));
}

TEST_F(CheckpointTest, RefusesByName) {
  std::string sentence;
  EXPECT_EQ(refused(::getpid()), EINVAL);
  EXPECT_EQ(refused(2, &sentence), EINVAL) << sentence;  // kthreadd, or nothing in a pid namespace
  EXPECT_EQ(refused(0x3fffffff), ESRCH);
}

TEST_F(CheckpointTest, RefusesWhatIsTracedAndNamesTheTracer) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  Shared<Beat> tracing;
  Child tracer([&] {
    if (::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) != 0) return 1;
    tracing->ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(eventually([&] { return tracing->ready == 1; }));
  std::string sentence;
  EXPECT_EQ(refused(child.pid(), &sentence), EBUSY);
  EXPECT_NE(sentence.find(fmt::format("process {}", tracer.pid())), std::string::npos) << sentence;
}

/// A child by clone(2), which pauses for ever, and dies with its parent.
pid_t pause_in_child(int flags) {
  alignas(16) static char stack[65536];
  const auto pause_for_ever = [](void*) -> int {
    ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::syscall(SYS_pause);
  };
  return ::clone(pause_for_ever, stack + sizeof stack, flags | SIGCHLD, nullptr);
}

TEST_F(CheckpointTest, RefusesWhatIsInCommonWithAProcessOutside) {
  const std::pair<int, const char*> kinds[] = {
      {CLONE_FILES, "descriptor table"}, {CLONE_FS, "working directory"}, {CLONE_VM, "memory"}};
  for (const auto& [flags, what] : kinds) {
    Shared<Beat> beat;
    Shared<std::atomic<pid_t>> paused;
    Child child([&, flag = flags] {
      close_all();
      *paused = pause_in_child(flag);
      return beat_for_ever(&*beat);
    });
    ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
    std::string sentence;
    EXPECT_EQ(refused(*paused, &sentence), EOPNOTSUPP);
    EXPECT_NE(sentence.find(what), std::string::npos) << sentence;
    EXPECT_NE(sentence.find(fmt::format("with process {}", child.pid())), std::string::npos) << sentence;
    EXPECT_TRUE(goes_on(*beat));
    EXPECT_TRUE(store_.stored.empty());
  }
}

TEST_F(CheckpointTest, RefusesWhatIsSharedPastAParent) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    if (::syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      pause_in_child(CLONE_FILES);
      ::unshare(CLONE_FILES);
      beat->ready = 1;
      for (;;) ::pause();
    }
    while (beat->ready == 0) ::usleep(200);
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1 && beat->count > 0; }));
  std::string sentence;
  EXPECT_EQ(refused(child.pid(), &sentence), EOPNOTSUPP);
  EXPECT_NE(sentence.find(fmt::format("descriptor table in common with {}", child.pid())), std::string::npos) << sentence;
  EXPECT_TRUE(goes_on(*beat));
}

TEST_F(CheckpointTest, RefusesAParentInVforkByName) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    if (::vfork() == 0) {
      beat->ready = 1;
      while (beat->count == 0) ::usleep(200);
      ::_exit(0);
    }
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1 && read_status(child.pid()).state == 'D'; }));
  std::string sentence;
  EXPECT_EQ(refused(child.pid(), &sentence), EBUSY);
  EXPECT_NE(sentence.find("vfork"), std::string::npos) << sentence;
  beat->count = 1;
  EXPECT_TRUE(goes_on(*beat));
}

TEST_F(CheckpointTest, ACancelledOneLeavesNothing) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  const CancelFlag cancel = true;
  CheckpointOptions cancelled;
  cancelled.cancel = &cancel;
  EXPECT_EQ(refused(child.pid(), nullptr, cancelled), EINTR);
  EXPECT_TRUE(store_.stored.empty());
  EXPECT_TRUE(goes_on(*beat));
  EXPECT_FALSE(being_captured(child.pid()));
}

int beat_in_threads(Beat* beat) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([beat, i] {
      std::vector<char> mine(1 << 20, static_cast<char>(i + 1));
      ++beat->ready;
      for (;;) {
        ++beat->count;
        ++mine[beat->count % mine.size()];
        if (i == 2) ::usleep(50);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return 0;
}

TEST_F(CheckpointTest, TheProcessOutlivesACheckpointKilledAtAnyMoment) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_in_threads(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 3; }));
  const std::string maps = read_file(fmt::format("/proc/{}/maps", child.pid()));
  unsigned seed = static_cast<unsigned>(child.pid());
  for (int round = 0; round < 60; ++round) {
    Shared<Beat> working;
    Child daemon([&]() -> int {
      working->ready = 1;
      for (;;) {
        MemoryStore store;
        checkpoint(store, child.pid(), Caller::self(), {});
        ++working->count;
      }
    });
    ASSERT_TRUE(eventually([&] { return working->ready == 1; }));
    ::usleep(static_cast<unsigned>(::rand_r(&seed)) % 30'000);
    ::kill(daemon.pid(), SIGKILL);
    daemon.join();
    ASSERT_TRUE(goes_on(*beat)) << "round " << round;
    ASSERT_TRUE(child.alive()) << "round " << round;
  }
  EXPECT_EQ(read_file(fmt::format("/proc/{}/maps", child.pid())), maps);
  const UniqueFd dir = open_proc(child.pid());
  EXPECT_TRUE(list_children(dir.get()).empty());
  EXPECT_EQ(refused(child.pid()), 0);
}

TEST_F(CheckpointTest, TwoOfOneProcessTakeTurns) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_in_threads(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 3; }));
  std::vector<std::thread> writers;
  std::atomic<int> done{0};
  for (const char* name : {"a", "b", "c"}) {
    writers.emplace_back([&, name] {
      MemoryStore store;
      checkpoint(store, child.pid(), Caller::self(), options(AfterCapture::go_on, name));
      ++done;
    });
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(done, 3);
  EXPECT_TRUE(goes_on(*beat));
}

TEST_F(CheckpointTest, APlainUserTakesOnlyHisOwn) {
  Shared<Beat> beat;
  Child child([&] {
    close_all();
    return beat_for_ever(&*beat);
  });
  ASSERT_TRUE(eventually([&] { return beat->ready == 1; }));
  Caller user;
  user.uid = ::getuid() + 1000;
  user.gid = ::getgid() + 1000;
  try {
    checkpoint(store_, child.pid(), user, {});
    ADD_FAILURE() << "somebody else's process was checkpointed";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EPERM);
  }
  EXPECT_TRUE(store_.stored.empty());
}

}  // namespace
}  // namespace ckpt
