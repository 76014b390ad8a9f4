#include "engine/process/death_watch.h"

#include <sys/wait.h>

#include <chrono>

#include "engine/process/procfs.h"

namespace ckpt {

void reap_ended_threads(int proc_dir, pid_t pid) {
  for (const pid_t tid : list_tasks(proc_dir)) {
    if (tid == pid) continue;
    // A wait for ends takes stops of a traced thread too (wait_task_stopped() in kernel/exit.c), which are for its tracer
    // to be seen: so it is only looked at first.
    siginfo_t info{};
    const auto id = static_cast<id_t>(tid);
    if (::waitid(P_PID, id, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 || info.si_pid == 0) continue;
    const bool ended = info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
    if (ended) ::waitid(P_PID, id, &info, WEXITED | WNOHANG | __WALL);
  }
}

DeathWatch::~DeathWatch() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DeathWatch::run(int proc_dir, pid_t pid) {
  // Mostly the tracer is through before the first time is up.
  constexpr std::chrono::milliseconds kInterval{5};
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kInterval, [this] { return ends_; })) reap_ended_threads(proc_dir, pid);
}

}  // namespace ckpt
