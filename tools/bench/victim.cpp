#include "tools/bench/victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/digest.h"
#include "tools/bench/bench.h"

namespace ckpt::bench {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = 120s;

VictimBoard* map_board(const std::string& file, bool create) {
  const UniqueFd fd = open_at(AT_FDCWD, file, O_RDWR | (create ? O_CREAT : 0), 0600);
  if (create && ::ftruncate(fd.get(), kPageSize) != 0) fail_errno("{}", file);
  void* at = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) fail_errno("{}: mapping", file);
  return static_cast<VictimBoard*>(at);
}

template <typename Condition>
void wait_until(const Condition& condition, const char* what) {
  const auto end = Clock::now() + kPatience;
  while (!condition()) {
    if (Clock::now() > end) fail(ETIMEDOUT, "waited in vain for {}", what);
    std::this_thread::sleep_for(100us);
  }
}

}  // namespace

Victim::Victim(const std::string& dir, uint64_t size, bool writing, bool huge, unsigned children) : file_(dir + "/board") {
  board_ = map_board(file_, true);
  new (board_) VictimBoard{};
  const char* mode = !writing ? "sleep" : huge ? "huge" : "write";
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "ckpt-bench-victim";
  const std::string size_text = std::to_string(size), children_text = std::to_string(children);
  pid_ = ::fork();
  if (pid_ < 0) fail_errno("starting a process");
  if (pid_ == 0) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
    ::close_range(3, ~0U, 0);
    ::execl(program.c_str(), "ckpt-bench-victim", file_.c_str(), size_text.c_str(), mode, children_text.c_str(),
            nullptr);
    ::_exit(127);
  }
  wait_until([this] { return board_->ready == 1; }, "the measured process to fill its memory");
}

Victim::~Victim() {
  end();
  ::munmap(board_, kPageSize);
  ::unlink(file_.c_str());
}

void Victim::end() {
  ::kill(-pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  // Its children, and after a resume it as well, are no children of ours, and init reaps them.
  wait_until([this] { return ::kill(pid_, 0) != 0 && ::kill(-pid_, 0) != 0; }, "the measured processes to end");
}

void Victim::wait_until_running() {
  const uint64_t before = board_->loops;
  wait_until([&] { return board_->loops > before; }, "the resumed process to run");
}

}  // namespace ckpt::bench
