// A process that waits in semop(2), which the kernel never restarts: whatever becomes of a stop, it goes on waiting.
#include <gtest/gtest.h>
#include <sys/sem.h>

#include <array>
#include <cstring>
#include <thread>

#include "engine/process/stop.h"
#include "engine/process/vfork.h"
#include "tests/unit/check_registers.h"

namespace ckpt {
namespace {

using test::Child;
using test::eventually;
using test::Report;
using test::Shared;

class Interruption : public testing::Test {
 protected:
  void SetUp() override { ASSERT_GE(set_, 0); }
  ~Interruption() override { ::semctl(set_, 0, IPC_RMID); }

  int operate(short value) const {
    sembuf operation = {0, value, 0};
    return ::semop(set_, &operation, 1) == 0 ? 0 : errno;
  }
  bool one_waits() const { return ::semctl(set_, 0, GETNCNT) == 1; }

 private:
  const int set_ = ::semget(IPC_PRIVATE, 1, 0600);
};

class FailedStop : public Interruption, public testing::WithParamInterface<bool> {};

TEST_P(FailedStop, InterruptsNothing) {
  const bool main_thread_waits = GetParam();
  Shared<Report> report;
  Child child([&] {
    int error = 0;
    const auto wait = [&] { error = operate(-1); };
    const auto cannot_be_stopped = [&] {
      if (::vfork() != 0) return;
      while (!report->finish) ::usleep(200);
      ::_exit(0);
    };
    std::thread other([&] { main_thread_waits ? cannot_be_stopped() : wait(); });
    main_thread_waits ? wait() : cannot_be_stopped();
    other.join();
    return error;
  });
  const UniqueFd proc_dir = open_proc(child.pid());
  ASSERT_TRUE(eventually([&] { return one_waits() && thread_in_vfork(proc_dir.get()) != 0; }));
  std::thread tracer([&] {
    try {
      StoppedProcess process(child.pid());
      process.stop(nullptr, std::chrono::milliseconds(50));
      ADD_FAILURE() << "it was stopped";
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EBUSY) << e.what();
    }
  });
  tracer.join();
  EXPECT_EQ(operate(1), 0);
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

INSTANTIATE_TEST_SUITE_P(, FailedStop, testing::Bool(),
                         [](const auto& test) { return test.param ? "of_the_main_thread" : "of_another_thread"; });

// A tracer that gets no CPU for so long that the thread, which it has asked many things at once, goes on by itself: when it
// stops it again, that interrupts the call once more.
TEST_F(Interruption, ALateTracerInterruptsNothing) {
  constexpr int kTries = 60, kLate = 1;
  Child child([&] { return operate(-1); });
  ASSERT_TRUE(eventually([&] { return one_waits(); }));
  Shared<Report> tracing;
  Child tracer([&] {
    const std::array<SystemCall, 2> calls = {SystemCall{SYS_getpid, {}}, SystemCall{SYS_getpid, {}}};
    try {
      StoppedProcess process(child.pid());
      process.stop();
      for (tracing->ready = 1; !tracing->finish;) process.leader().run_all(calls);
    } catch (const Error& e) {
      return e.err() == ETIMEDOUT ? kLate : 2;
    }
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return tracing->ready == 1; }));
  for (int i = 0; i < kTries && tracer.alive(); ++i) {
    ::kill(tracer.pid(), SIGSTOP);
    ::usleep(300'000);  // longer than a thread that was asked waits for its tracer
    ::kill(tracer.pid(), SIGCONT);
    eventually([&] { return !tracer.alive(); }, std::chrono::milliseconds(10));
  }
  tracing->finish = true;
  EXPECT_EQ(tracer.join(), kLate) << "it was never late at the right moment";
  EXPECT_EQ(operate(1), 0);
  EXPECT_EQ(child.join(), 0);
}

}  // namespace
}  // namespace ckpt
