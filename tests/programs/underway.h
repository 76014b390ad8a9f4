// A thread inside a system call: it is in there when the program gets ready, it is in there again after whatever
// happens, and the call then ends as if nothing had happened.
#pragma once

#include <atomic>
#include <thread>

#include "selfcheck.h"

namespace selfcheck {

class UnderWay {
 public:
  /// Runs `call` in a thread of its own, and returns when the thread sleeps in system call `number`.
  UnderWay(long number, const std::function<void()>& call) : number_(number) {
    thread_ = std::thread([this, call] {
      tid_ = thread_id();
      call();
      ended_ = true;
    });
    wait_until([this] { return tid_ != 0; }, "the thread runs");
    wait_in_syscall(tid_, number_);
  }
  bool ended() const { return ended_; }
  pid_t tid() const { return tid_; }
  void require_inside(const char* what) const { REQUIRE(!ended_, "%s has ended too early", what); }
  /// Waits until it sleeps in the call again.
  void wait_inside() { selfcheck::wait_inside(tid_, number_); }
  void join() { thread_.join(); }

 private:
  long number_;
  std::atomic<pid_t> tid_{0};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace selfcheck
