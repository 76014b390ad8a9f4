// What a resume makes in the system outside of the processes: where it fails, or whoever does it dies, at any step, nothing of
// it stays, and what was there before is as it was.
#include <gtest/gtest.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "tests/unit/tree_fixture.h"

namespace ckpt {
namespace {

using test::beat;
using test::eventually;
using test::leave_the_test;

/// Things in the system that outlive whoever has made them.
class Outside {
 public:
  Outside() {
    if (::mkdtemp(directory_.data()) == nullptr) fail_errno("{}", directory_);
  }
  ~Outside() {
    remove();
    ::rmdir(directory_.c_str());
  }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

  /// In a process that has them open from here on.
  void make() const {
    static_cast<void>(bind_socket().release());
    const int segment = ::shmget(key_, 4096, IPC_CREAT | IPC_EXCL | 0600);
    const int set = ::semget(key_, 1, IPC_CREAT | IPC_EXCL | 0600);
    sembuf up = {0, 1, 0};
    if (::shmat(segment, nullptr, 0) == reinterpret_cast<void*>(-1) || ::semop(set, &up, 1) != 0 ||
        ::msgget(key_, IPC_CREAT | IPC_EXCL | 0600) < 0 || ::mq_open(name_.c_str(), O_RDWR | O_CREAT, 0600, nullptr) < 0) {
      ::_exit(1);
    }
    send("message");
  }
  UniqueFd bind_socket() const {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_file().copy(address.sun_path, sizeof address.sun_path - 1);
    const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(listener, 1) != 0) {
      ::_exit(1);
    }
    return UniqueFd(listener);
  }
  void remove() const {
    ::unlink(socket_file().c_str());
    ::shmctl(::shmget(key_, 0, 0), IPC_RMID, nullptr);
    ::semctl(::semget(key_, 0, 0), 0, IPC_RMID);
    ::msgctl(::msgget(key_, 0), IPC_RMID, nullptr);
    ::mq_unlink(name_.c_str());
  }
  /// Other values in what is there.
  void change() const {
    ::semctl(::semget(key_, 0, 0), 0, SETVAL, 7);
    char taken[64];
    ::msgrcv(::msgget(key_, 0), taken, sizeof taken - sizeof(long), 0, IPC_NOWAIT);
    send("another");
    send("one more");
  }
  /// 0 where it is not there.
  ino_t socket_inode() const {
    struct stat st = {};
    return ::lstat(socket_file().c_str(), &st) == 0 ? st.st_ino : 0;
  }
  /// Of all that is there.
  std::string state() const {
    std::string text;
    if (socket_inode() != 0) text += "socket ";
    if (::shmget(key_, 0, 0) >= 0) text += "segment ";
    if (const int set = ::semget(key_, 0, 0); set >= 0) text += fmt::format("semaphore {} ", ::semctl(set, 0, GETVAL));
    if (const int queue = ::msgget(key_, 0); queue >= 0) text += "queue " + messages(queue);
    if (UniqueFd(::mq_open(name_.c_str(), O_RDONLY))) text += "mqueue";
    return text;
  }

 private:
  struct Message {
    long type;
    char text[16];
  };
  std::string socket_file() const { return directory_ + "/socket"; }
  void send(const char* text) const {
    Message message = {1, {}};
    ::strncpy(message.text, text, sizeof message.text - 1);
    if (::msgsnd(::msgget(key_, 0), &message, sizeof message.text, 0) != 0) ::_exit(1);
  }
  static std::string messages(int queue) {
    std::string text;
    Message message = {};
    for (long i = 0; ::msgrcv(queue, &message, sizeof message.text, i, IPC_NOWAIT | MSG_COPY) >= 0; ++i) {
      text += fmt::format("'{}' ", message.text);
    }
    return text;
  }

  std::string directory_ = "/tmp/traces-test-XXXXXX";
  const key_t key_ = static_cast<key_t>(0x5ef00000 | (::getpid() & 0xfffff));
  const std::string name_ = "/ckpt-traces-test-" + std::to_string(::getpid());
};

/// An image whose reading does something else at one of its steps.
class TreacherousImage : public ImageSource {
 public:
  TreacherousImage(const ImageSource& image, int step, std::function<void()> deed)
      : image_(image), step_(step), deed_(std::move(deed)) {}
  std::string describe() const override { return image_.describe(); }
  const std::vector<ImageEntry>& entries() const override { return image_.entries(); }
  std::string read_link(std::string_view path) const override {
    count();
    return image_.read_link(path);
  }
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& visitor) const override {
    count();
    image_.visit(path, offset, length, visitor);
  }
  Digest digest(std::string_view path) const override { return image_.digest(path); }
  bool was_reached() const { return reached_; }

 private:
  void count() const {
    if (++steps_ != step_) return;
    reached_ = true;
    deed_();
  }

  const ImageSource& image_;
  const int step_;
  const std::function<void()> deed_;
  mutable std::atomic<int> steps_ = 0;
  mutable std::atomic<bool> reached_ = false;
};

class TracesTest : public test::TreeTest {
 protected:
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    root_ = ::fork();
    if (root_ == 0) {
      leave_the_test();
      outside_.make();
      if (::fork() == 0) beat(*report_, 2);
      beat(*report_, 1);
    }
    ASSERT_TRUE(eventually([&] { return report_->ready == 2; }));
    image_ = freeze();
  }

  /// Nobody of the image is there, nor whoever helped to make it.
  bool nobody_is_left() const {
    while (::waitpid(-1, nullptr, __WALL | WNOHANG) > 0) {
    }
    return list_children(open_proc(::getpid()).get()).empty() && none_exists();
  }
  void end_all() const {
    for (const pid_t pid : pids()) ::kill(pid, SIGKILL);
    reap_all();
  }

  void fails_at_each_step() {
    const std::string before = outside_.state();
    for (int step = 1;; ++step) {
      const TreacherousImage image(*image_, step, [] { fail(EIO, "this step"); });
      bool failed = false;
      try {
        resume(image, Caller::self(), {});
      } catch (const Error&) {
        failed = true;
      }
      ASSERT_EQ(failed, image.was_reached());
      if (!failed) return end_all();
      ASSERT_EQ(outside_.state(), before) << "step " << step;
      ASSERT_TRUE(eventually([&] { return nobody_is_left(); })) << "step " << step;
    }
  }
  void dies_at_each_step() {
    const std::string before = outside_.state();
    for (int step = 1;; ++step) {
      const pid_t resumer = ::fork();
      if (resumer == 0) {
        const TreacherousImage image(*image_, step, [] { ::kill(::getpid(), SIGKILL); });
        resume(image, Caller::self(), {});
        ::_exit(0);
      }
      int status = 0;
      ::waitpid(resumer, &status, 0);
      if (WIFEXITED(status)) {
        EXPECT_EQ(WEXITSTATUS(status), 0);
        return end_all();
      }
      ASSERT_TRUE(eventually([&] { return nobody_is_left() && outside_.state() == before; }))
          << "step " << step << ": " << outside_.state() << " instead of " << before;
    }
  }

  Outside outside_;
  std::shared_ptr<const StoredImage> image_;
};

TEST_F(TracesTest, AFailureAtAnyStepLeavesNone) {
  outside_.remove();
  ASSERT_EQ(outside_.state(), "");
  fails_at_each_step();
}

TEST_F(TracesTest, AFailureAtAnyStepLeavesWhatWasThere) {
  outside_.change();
  fails_at_each_step();
}

TEST_F(TracesTest, DeathAtAnyStepLeavesNone) {
  outside_.remove();
  dies_at_each_step();
}

TEST_F(TracesTest, DeathAtAnyStepLeavesWhatWasThere) {
  outside_.change();
  dies_at_each_step();
}

TEST_F(TracesTest, ASocketThatSomebodyElseHasBoundStays) {
  outside_.remove();
  const UniqueFd others = outside_.bind_socket();
  const ino_t before = outside_.socket_inode();
  try {
    resume(*image_, Caller::self(), {});
    ADD_FAILURE() << "it was resumed";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EADDRINUSE) << e.sentence();
  }
  EXPECT_EQ(outside_.socket_inode(), before);
  EXPECT_EQ(outside_.state(), "socket ");
}

// Between the steps of the image, and after its last one, when the processes are let go.
TEST_F(TracesTest, DeathAtAnyMomentLeavesAllOrNone) {
  outside_.remove();
  int whole = 0, none = 0;
  useconds_t delay = 0;
  // Longer and longer, until it is done by then.
  for (int round = 0; round < 200 && whole < 3; ++round, delay += 700 + delay / 20) {
    const pid_t resumer = ::fork();
    if (resumer == 0) {
      resume(*image_, Caller::self(), {});
      ::_exit(0);
    }
    ::usleep(delay);
    ::kill(resumer, SIGKILL);
    ::waitpid(resumer, nullptr, 0);
    const uint64_t before[] = {report_->beats[1], report_->beats[2]};
    const auto all_run = [&] {
      const auto left = list_children(open_proc(::getpid()).get());
      return left.size() == 1 && report_->beats[1] > before[0] && report_->beats[2] > before[1] &&
             outside_.state() == "socket segment semaphore 1 queue 'message' mqueue";
    };
    const bool decided = eventually([&] { return nobody_is_left() ? outside_.state().empty() : all_run(); });
    ASSERT_TRUE(decided) << "after " << delay << " us: " << outside_.state();
    ++(none_exists() ? none : whole);
    end_all();
    outside_.remove();
  }
  EXPECT_GT(none, 0);
  EXPECT_GT(whole, 0);
}

}  // namespace
}  // namespace ckpt
