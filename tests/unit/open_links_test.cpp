#include "engine/kinds/open_links.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>

#include "engine/process/death_guard.h"

namespace ckpt {
namespace {

TEST(OpenLinks, OursAndThoseOfOurGuardsAreLeftOut) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  struct stat st {};
  ASSERT_EQ(fstat(ends[0], &st), 0);
  const std::string link = "pipe:[" + std::to_string(st.st_ino) + "]";
  const DeathGuard guard({DeathGuard::Call{SYS_getpid, {}}});
  const auto holders = [&] {
    std::set<pid_t> found;
    for_each_open_link([](pid_t) { return false; }, [&](pid_t pid, const char*, std::string_view target) {
      if (target == link) found.insert(pid);
    });
    return found;
  };
  EXPECT_EQ(holders(), std::set<pid_t>{});
  const pid_t child = fork();  // with a table of its own
  if (child == 0) {
    for (;;) pause();
  }
  EXPECT_EQ(holders(), std::set<pid_t>{child});
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace ckpt
