// Trees of processes through checkpoint() and resume(): all of them or none, whatever happens meanwhile.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <set>
#include <thread>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "engine/process/procfs.h"
#include "engine/process/stub.h"
#include "tests/unit/tree_fixture.h"

namespace ckpt {
namespace {

using test::beat;
using test::Child;
using test::eventually;
using test::exists;
using test::kProcesses;
using test::leave_the_test;
using test::Shared;
using test::TreeReport;
using test::TreeTest;

TEST_F(TreeTest, IsCapturedAsAWholeAndGoesOn) {
  start();
  const CheckpointResult result = save();
  const auto image = store_.open_image(result.name);
  std::set<int> members(image->info().header.pids.begin(), image->info().header.pids.end());
  EXPECT_EQ(image->info().header.pids.front(), root_);
  for (const pid_t pid : pids()) EXPECT_EQ(members.count(pid), 1u) << pid;
  EXPECT_EQ(members.size(), pids().size());
  for (const pid_t pid : pids()) {
    const std::string prefix = pid == root_ ? "" : fmt::format("children/{}/", pid);
    for (const char* file : {"maps", "status", "family", "fds/0", "exe"}) EXPECT_TRUE(image->has(prefix + file)) << file;
  }
  EXPECT_TRUE(all_go_on());
  EXPECT_TRUE(nobody_is_traced());
}

TEST_F(TreeTest, StoppedItStaysStopped) {
  start();
  save(AfterCapture::stop);
  for (const pid_t pid : pids()) EXPECT_TRUE(eventually([&] { return read_status(pid).state == 'T'; })) << pid;
  // And comes to be so again.
  const auto image = freeze();
  resume(*image, Caller::self(), {});
  for (const pid_t pid : pids()) EXPECT_TRUE(eventually([&] { return read_status(pid).state == 'T'; })) << pid;
  for (const pid_t pid : pids()) ::kill(pid, SIGCONT);
  EXPECT_TRUE(all_go_on());
}

// Who ends in the middle of his capture has no memory, no descriptors, and some files of /proc less.
TEST_F(TreeTest, EveryErrorOfOneThatEndsNamesAProcess) {
  const auto begin = [this] {
    report_->ready = 0;
    root_ = ::fork();
    if (root_ == 0) {
      leave_the_test();
      const pid_t child = ::fork();
      beat(*report_, child == 0 ? 2 : 1);
    }
    ASSERT_TRUE(eventually([&] { return report_->ready == 2; }));
  };
  const auto end = [this] {
    for (size_t i : {1, 2}) ::kill(report_->pids[i], SIGKILL);
    reap_all();
    store_.stored.clear();  // or the next one would have it in its memory
  };
  // The files that are written of a process, by their names within its directory.
  const auto name_of = [this](std::string_view path, size_t index) {
    const std::string pid = std::to_string(report_->pids[index]);
    const std::string prefix = index == 1 ? "" : "children/" + pid + "/";
    if (!path.starts_with(prefix) || (index == 1 && path.starts_with("children/"))) return std::string();
    std::string name(path.substr(prefix.size()));
    if (const size_t at = name.find(pid); at != std::string::npos) name.replace(at, pid.size(), "PID");
    return name;
  };
  for (const size_t victim : {1, 2}) {
    std::set<std::string> names;
    begin();
    store_.after_put = [&](std::string_view path) { names.insert(name_of(path, victim)); };
    save();
    end();
    names.erase("");
    EXPECT_GT(names.size(), 10u);
    // Every other one, that all take less than a few seconds.
    bool skip = victim == 1;
    for (const std::string& name : names) {
      if ((skip = !skip)) continue;
      begin();
      const pid_t pid = report_->pids[victim];
      store_.after_put = [&](std::string_view path) {
        if (name_of(path, victim) != name) return;
        ::kill(pid, SIGKILL);
        EXPECT_TRUE(eventually([&] { return is_ending(pid); }));
      };
      try {
        save();
      } catch (const Error& e) {
        EXPECT_TRUE(e.sentence().starts_with(fmt::format("{}: ", pid))) << name << ": " << e.sentence();
        // Without a descendant it goes on.
        EXPECT_EQ(victim, 1u) << name << ": " << e.sentence();
        EXPECT_EQ(e.err(), ESRCH) << name << ": " << e.sentence();
      }
      const uint64_t before = report_->beats[3 - victim];
      EXPECT_TRUE(eventually([&] { return report_->beats[3 - victim] > before + 10; })) << name;
      EXPECT_EQ(read_status(report_->pids[3 - victim]).tracer, 0) << name;
      end();
    }
  }
}

TEST_F(TreeTest, ADescendantOfAnotherUserIsNamed) {
  constexpr uid_t kNobody = 65534;
  root_ = ::fork();
  if (root_ == 0) {
    leave_the_test();
    if (::fork() == 0) beat(*report_, 2);
    ::syscall(SYS_setgroups, 0, nullptr);
    if (::setresgid(kNobody, kNobody, kNobody) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0) ::_exit(1);
    ::prctl(PR_SET_DUMPABLE, 1);
    beat(*report_, 1);
  }
  ASSERT_TRUE(eventually([&] { return report_->ready == 2; }));
  Caller user;
  user.uid = user.gid = kNobody;
  try {
    checkpoint(store_, root_, user, {});
    ADD_FAILURE() << "it was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EPERM);
    EXPECT_TRUE(e.sentence().starts_with(fmt::format("{}: ", report_->pids[2].load()))) << e.sentence();
  }
  EXPECT_TRUE(store_.stored.empty());
  EXPECT_TRUE(nobody_is_traced());
  // Root may; the image is root's then, since it holds a process of root's.
  EXPECT_EQ(store_.open_image(save().name)->info().header.uid, 0u);
}

TEST_F(TreeTest, APidInUseLeavesNothing) {
  start();
  const pid_t member = report_->pids[6];
  const auto image = freeze();
  {
    Stub in_the_way(member, true);
    try {
      resume(*image, Caller::self(), {});
      ADD_FAILURE() << "it was resumed";
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EEXIST);
      EXPECT_NE(e.sentence().find(std::to_string(member)), std::string::npos) << e.sentence();
    }
    for (const pid_t pid : pids()) EXPECT_EQ(exists(pid), pid == member) << pid;
  }
  EXPECT_EQ(::waitpid(-1, nullptr, __WALL | WNOHANG), -1) << "a child is left";
}

TEST_F(TreeTest, OutlivesACheckpointKilledAtAnyMoment) {
  start();
  unsigned seed = static_cast<unsigned>(root_);
  for (int round = 0; round < 40; ++round) {
    Shared<std::atomic<int>> working;
    Child daemon([&]() -> int {
      *working = 1;
      for (;;) {
        MemoryStore store;
        checkpoint(store, root_, Caller::self(), {});
      }
    });
    ASSERT_TRUE(eventually([&] { return *working == 1; }));
    ::usleep(static_cast<unsigned>(::rand_r(&seed)) % 60'000);
    ::kill(daemon.pid(), SIGKILL);
    daemon.join();
    ASSERT_TRUE(all_go_on()) << "round " << round;
    ASSERT_TRUE(nobody_is_traced()) << "round " << round;
  }
  for (size_t i = kProcesses / 2; i < kProcesses; ++i) {
    EXPECT_TRUE(list_children(open_proc(report_->pids[i]).get()).empty()) << "a leaf has a child";
  }
  save();
}

/// Whoever resumes is killed at many instants: all of them run, or none is left.
TEST_F(TreeTest, TheDeathOfTheResumerLeavesAllOrNothing) {
  start();
  const auto image = freeze();
  int whole = 0, none = 0;
  useconds_t delay = 0;
  // Longer and longer, until it is done by then.
  for (int round = 0; round < 200 && whole < 5; ++round, delay += 700 + delay / 20) {
    const pid_t resumer = ::fork();
    if (resumer == 0) {
      resume(*image, Caller::self(), {});
      ::_exit(0);
    }
    ::usleep(delay);
    ::kill(resumer, SIGKILL);
    ::waitpid(resumer, nullptr, 0);
    // What was half-made ends by itself, and with it, as children of ours now, whoever helped to make it. Or it runs,
    // every one, and nobody else is left.
    std::array<uint64_t, kProcesses> before{};
    for (size_t i = 1; i < kProcesses; ++i) before[i] = report_->beats[i];
    const bool decided = eventually([&] {
      while (::waitpid(-1, nullptr, __WALL | WNOHANG) > 0) {
      }
      const auto left = list_children(open_proc(::getpid()).get());
      if (left.empty()) return none_exists();
      return left.size() == 1 && left.front().pid == root_ && have_beaten(before);
    });
    ASSERT_TRUE(decided) << "after " << delay << " us some are there and some are not";
    if (none_exists()) {
      ++none;
      continue;
    }
    ++whole;
    ASSERT_TRUE(all_go_on()) << "after " << delay << " us";
    for (const pid_t pid : pids()) ::kill(pid, SIGKILL);
    reap_all();
  }
  EXPECT_GT(none, 0);
  EXPECT_GT(whole, 0);
}

// ---- birth and death ----

/// Makes children all the time, each with one of its own; they end by themselves, and are waited for.
[[noreturn]] void breed(TreeReport& report) {
  report.pids[1] = ::getpid();
  report.ready = 1;
  for (;;) {
    ++report.beats[1];
    if (::fork() == 0) {
      if (::fork() == 0) {
        ++report.births;
        ::usleep(300);
        ::_exit(0);
      }
      ::wait(nullptr);
      ::_exit(0);
    }
    if (report.beats[1] % 4 == 0) {
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
    }
    ::usleep(100);
  }
}

TEST_F(TreeTest, ChildrenMayBeBornAndDieMeanwhile) {
  root_ = ::fork();
  if (root_ == 0) {
    leave_the_test();
    breed(*report_);
  }
  ASSERT_TRUE(eventually([&] { return report_->ready == 1 && report_->births > 20; }));
  size_t with_children = 0, with_zombies = 0;
  for (int round = 0; round < 30; ++round) {
    const CheckpointResult result = save();
    const auto image = store_.open_image(result.name);
    size_t families = 0;
    for (const ImageEntry& entry : image->below("children")) families += entry.path.ends_with("/family");
    const size_t running = image->info().header.pids.size() - 1;
    with_children += running != 0;
    with_zombies += families != running;
    const uint64_t before = report_->births;
    ASSERT_TRUE(eventually([&] { return report_->births > before + 5; })) << "round " << round;
  }
  EXPECT_GT(with_children, 0u);
  EXPECT_GT(with_zombies, 0u);
  // And such a family goes on as well.
  const std::string name = save(AfterCapture::exit).name;
  EXPECT_EQ(::waitpid(root_, nullptr, 0), root_);
  resume(*store_.open_image(name), Caller::self(), {});
  const uint64_t before = report_->births;
  EXPECT_TRUE(eventually([&] { return report_->births > before + 20; }));
}

/// posix_spawn(3): each child has the memory of its parent, who waits in vfork(2), until it is another program.
[[noreturn]] void spawn_for_ever(TreeReport& report) {
  report.pids[1] = ::getpid();
  report.ready = 1;
  char name[] = "true";
  char* const arguments[] = {name, nullptr};
  for (;;) {
    pid_t pid = 0;
    if (::posix_spawn(&pid, "/bin/true", nullptr, nullptr, arguments, nullptr) != 0) ::_exit(1);
    ::waitpid(pid, nullptr, 0);
    ++report.births;
  }
}

TEST_F(TreeTest, ChildrenMayBeSpawnedMeanwhile) {
  root_ = ::fork();
  if (root_ == 0) {
    leave_the_test();
    spawn_for_ever(*report_);
  }
  ASSERT_TRUE(eventually([&] { return report_->births > 5; }));
  for (int round = 0; round < 30; ++round) {
    save();
    const uint64_t before = report_->births;
    ASSERT_TRUE(eventually([&] { return report_->births > before + 2; })) << "round " << round;
  }
  const auto image = freeze();
  resume(*image, Caller::self(), {});
  const uint64_t before = report_->births;
  EXPECT_TRUE(eventually([&] { return report_->births > before + 5; }));
}

}  // namespace
}  // namespace ckpt
