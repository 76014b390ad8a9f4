// resume(): programs that are checkpointed into a store in memory, ended, and resumed, go on as if nothing had been.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "engine/process/procfs.h"
#include "engine/process/stub.h"
#include "tests/unit/memory_store.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

namespace fs = std::filesystem;
using test::eventually;

bool exists(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

/// Whoever resumes for init hands the process to the nearest subreaper: this test, which so can reap it.
class ResumeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "a chosen pid needs privileges";
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::string name = (fs::temp_directory_path() / "resume-XXXXXX").string();
    dir_ = ::mkdtemp(name.data());
    ::chmod(dir_.c_str(), 0755);
  }
  void TearDown() override {
    end();
    fs::remove_all(dir_);
  }

  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    reap();
  }
  int reap() {
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return status;
  }

  /// Starts a program in a session of its own, its streams on /dev/null.
  pid_t start(const std::vector<std::string>& arguments) {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::setsid();
      ::chdir("/");
      const int null = ::open("/dev/null", O_RDWR);
      for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
      ::syscall(SYS_close_range, 3, ~0u, 0);
      std::vector<char*> argv;
      for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
      argv.push_back(nullptr);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    return pid_;
  }

  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  bool wait_file(const std::string& name) {
    return eventually([&] { return fs::exists(path(name)) || !running(); }) && fs::exists(path(name));
  }
  bool running() const { return exists(pid_) && read_status(pid_).state != 'Z'; }
  std::string content(const std::string& name) const {
    std::ifstream in(path(name));
    return {std::istreambuf_iterator<char>(in), {}};
  }

  /// Checkpoints and ends it.
  std::shared_ptr<const StoredImage> freeze() {
    CheckpointOptions options;
    options.after = AfterCapture::exit;
    const std::string name = checkpoint(store_, pid_, Caller::self(), options).name;
    const pid_t pid = pid_;
    reap();
    pid_ = pid;
    return store_.open_image(name);
  }
  ResumeResult thaw(const ImageSource& image, const ResumeOptions& options = {}) {
    frozen_ = pid_;
    pid_ = 0;
    const ResumeResult result = resume(image, Caller::self(), options);
    pid_ = result.pid;
    return result;
  }
  /// A resume that must fail; leaves nothing. The sentence.
  std::string refused(const ImageSource& image, int err) {
    const auto pid = static_cast<pid_t>(Manifest::parse(image.read(kManifestName), "image").header.pid);
    try {
      thaw(image);
      ADD_FAILURE() << "it was resumed";
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), err) << e.sentence();
      pid_ = 0;
      EXPECT_FALSE(exists(pid));
      EXPECT_EQ(::waitpid(-1, nullptr, __WALL | WNOHANG), -1);
      return e.sentence();
    }
    return {};
  }

  MemoryStore store_;
  std::string dir_;
  pid_t pid_ = 0;
  pid_t frozen_ = 0;
};

constexpr const char* kCounter = R"(
import os, sys, threading, time
counts = [0] * 3
def work(i):
    while True:
        counts[i] += 1
        time.sleep(0.001)
for i in range(3): threading.Thread(target=work, args=(i,), daemon=True).start()
out = open(sys.argv[1], 'w')
n = 0
while True:
    n += 1
    out.write('%d %s\n' % (n, counts)); out.flush()
    time.sleep(0.002)
)";

TEST_F(ResumeTest, PythonWithThreadsGoesOnWhereItWas) {
  start({"python3", "-c", kCounter, path("out")});
  ASSERT_TRUE(eventually([&] { return fs::exists(path("out")) && fs::file_size(path("out")) > 500; }));
  const auto image = freeze();
  const std::string before = content("out");
  const ResumeResult result = thaw(*image);
  EXPECT_EQ(result.pid, frozen_);
  EXPECT_TRUE(eventually([&] { return fs::file_size(path("out")) > before.size() + 500; }));
  end();
  const std::string all = content("out");
  EXPECT_EQ(all.substr(0, before.size()), before);
  int expected = 0;
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line) && !lines.eof();) EXPECT_EQ(std::stoi(line), ++expected);
  RecordProperty("resume_us", static_cast<int>(result.total_ns / 1000));
}

TEST_F(ResumeTest, AsOurChildItEndsWithItsStatus) {
  start({"sh", "-c", "while ! test -e " + path("go") + "; do :; done; exit 7"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sh"; }));
  const auto image = freeze();
  ResumeOptions options;
  options.as_child = true;
  thaw(*image, options);
  std::ofstream(path("go")) << "";
  const int status = reap();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST_F(ResumeTest, StoppedItStaysUntilContinued) {
  start({"python3", "-c", kCounter, path("out")});
  ASSERT_TRUE(eventually([&] { return fs::exists(path("out")) && fs::file_size(path("out")) > 500; }));
  const auto image = freeze();
  ResumeOptions options;
  options.stopped = true;
  thaw(*image, options);
  EXPECT_TRUE(eventually([&] { return read_status(pid_).state == 'T'; }));
  const auto size = fs::file_size(path("out"));
  ::kill(pid_, SIGCONT);
  EXPECT_TRUE(eventually([&] { return fs::file_size(path("out")) > size + 500; }));
}

TEST_F(ResumeTest, AThreadIdInUseLeavesNothing) {
  start({"python3", "-c", kCounter, path("out")});
  ASSERT_TRUE(eventually([&] { return fs::exists(path("out")) && fs::file_size(path("out")) > 500; }));
  const UniqueFd proc = open_proc(pid_);
  const pid_t tid = list_tasks(proc.get()).back();
  const auto image = freeze();
  const pid_t pid = pid_;
  {
    Stub in_the_way(tid, true);
    const std::string sentence = [&] {
      try {
        thaw(*image);
      } catch (const Error& e) {
        EXPECT_EQ(e.err(), EEXIST);
        return e.sentence();
      }
      return std::string();
    }();
    EXPECT_NE(sentence.find(std::to_string(tid)), std::string::npos) << sentence;
    EXPECT_FALSE(exists(pid));
  }
  pid_ = pid;
  thaw(*image);
  EXPECT_TRUE(running());
}

// Whoever resumes is killed at many instants: what he was making goes with him, or runs whole.
TEST_F(ResumeTest, TheDeathOfTheResumerLeavesNothingHalfMade) {
  start({"python3", "-c", kCounter, path("out")});
  ASSERT_TRUE(eventually([&] { return fs::exists(path("out")) && fs::file_size(path("out")) > 500; }));
  auto image = freeze();
  const pid_t pid = pid_;
  for (int delay_us = 0; delay_us < 12000; delay_us += 400) {
    const auto size = fs::file_size(path("out"));
    const pid_t resumer = ::fork();
    if (resumer == 0) {
      resume(*image, Caller::self(), {});
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(delay_us));
    ::kill(resumer, SIGKILL);
    ::waitpid(resumer, nullptr, 0);
    // A half-made one ends at once; it is ours to reap, as we are the subreaper.
    const bool runs = eventually([&] {
      return ::waitpid(pid, nullptr, WNOHANG) != 0 || fs::file_size(path("out")) > size + 200;
    }) && exists(pid);
    if (runs) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    while (::waitpid(-1, nullptr, __WALL) > 0) {
    }
    ASSERT_FALSE(exists(pid));
    fs::resize_file(path("out"), size);
  }
  pid_ = 0;
}

TEST_F(ResumeTest, APidInUseIsNamed) {
  start({"sleep", "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  checkpoint(store_, pid_, Caller::self(), {});
  try {
    resume(*store_.open_image(std::to_string(pid_)), Caller::self(), {});
    FAIL() << "resumed beside itself";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EEXIST);
    EXPECT_EQ(e.sentence(), fmt::format("{}: the pid is in use (by {} sleep)", pid_, pid_));
  }
  EXPECT_TRUE(running());
}

// A parent that takes its time: a killed process is reaped long after its archive was copied back.
TEST_F(ResumeTest, APidThatBecomesFreeIsWaitedFor) {
  start({"sleep", "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  checkpoint(store_, pid_, Caller::self(), {});
  EXPECT_FALSE(is_ending(pid_));
  ::kill(pid_, SIGKILL);
  EXPECT_TRUE(eventually([&] { return is_ending(pid_); }));
  const auto image = store_.open_image(std::to_string(pid_));
  std::thread parent([pid = pid_] {
    ::usleep(400'000);
    EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
  });
  try {
    thaw(*image);
  } catch (const Error& e) {
    ADD_FAILURE() << e.sentence();
  }
  parent.join();
  EXPECT_TRUE(pid_ > 0 && running());
}

TEST_F(ResumeTest, AMappedFileThatHasChangedIsNamed) {
  fs::copy_file("/bin/sleep", path("sleep"));
  start({path("sleep"), "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  const auto image = freeze();
  const auto then = fs::last_write_time(path("sleep"));
  std::ofstream(path("sleep"), std::ios::app) << "x";
  const std::string sentence = refused(*image, ESTALE);
  EXPECT_NE(sentence.find(path("sleep") + " has changed since the checkpoint (size"), std::string::npos) << sentence;
  fs::resize_file(path("sleep"), fs::file_size("/bin/sleep"));
  EXPECT_NE(refused(*image, ESTALE).find("modified at"), std::string::npos);
  // Renamed, and as it was: found by its handle.
  fs::last_write_time(path("sleep"), then);
  fs::rename(path("sleep"), path("moved"));
  thaw(*image);
  EXPECT_TRUE(running());
  EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(pid_) + "/exe"), path("moved"));
  end();
  fs::remove(path("moved"));
  EXPECT_NE(refused(*image, ENOENT).find(path("sleep")), std::string::npos);
}

TEST_F(ResumeTest, APlainUserResumesOnlyHisOwn) {
  start({"sleep", "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  const auto image = freeze();
  Caller plain;
  plain.uid = plain.gid = 65534;
  try {
    resume(*image, plain, {});
    FAIL() << "a plain user has resumed a process of root";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EPERM) << e.sentence();
  }
  EXPECT_FALSE(exists(pid_));
  pid_ = 0;
}

/// A process that has run `confine` and waits.
class Confined {
 public:
  explicit Confined(const std::function<void()>& confine) : pid_(::fork()) {
    if (pid_ == 0) {
      confine();
      ::prctl(PR_SET_NAME, "confined");
      for (;;) ::pause();
    }
    EXPECT_TRUE(eventually([&] { return read_status(pid_).name == "confined"; }));
  }
  ~Confined() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST_F(ResumeTest, AConfinedCallerIsNotLetOut) {
  start({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
         "sleep", "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  const auto image = freeze();
  const auto expect_refused = [&](const char* word, const std::function<void()>& confine) {
    const Confined confined(confine);
    try {
      resume(*image, Caller::of_request(confined.pid(), 65534, 65534), {});
      ADD_FAILURE() << "the caller has got rid of " << word;
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EPERM);
      EXPECT_NE(e.sentence().find(word), std::string::npos) << e.sentence();
    }
    EXPECT_FALSE(exists(pid_));
  };
  expect_refused("no_new_privs", [] { ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); });
  expect_refused("seccomp", [] {
    sock_filter allow_all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program = {1, allow_all};
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
  });
  expect_refused("mount namespace", [] { ::unshare(CLONE_NEWNS); });
  pid_ = 0;
}

TEST_F(ResumeTest, APlainUserResumesAProcessOfHisOwn) {
  start({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
         "sleep", "1000"});
  ASSERT_TRUE(eventually([&] { return read_status(pid_).name == "sleep"; }));
  const auto image = freeze();
  const Caller plain = Caller::of_request(::getpid(), 65534, 65534);
  const pid_t pid = pid_;
  pid_ = 0;
  pid_ = resume(*image, plain, {}).pid;
  EXPECT_EQ(pid_, pid);
  EXPECT_EQ(read_status(pid_).uid[0], 65534u);
  EXPECT_EQ(read_status(pid_).cap_permitted, 0u);
}

// ---- every self-checking program ----------------------------------------------------------------------------------

class ResumeProgramTest : public ResumeTest, public testing::WithParamInterface<std::string> {};

TEST_P(ResumeProgramTest, FindsEverythingAsItWas) {
  start({std::string(CHECK_PROGRAMS_DIR) + "/" + GetParam(), dir_});
  ASSERT_TRUE(wait_file("ready")) << content("result");
  pid_ = std::stoi(content("ready"));
  std::shared_ptr<const StoredImage> image;
  try {
    image = freeze();
  } catch (const Error& e) {
    if (e.err() == EOPNOTSUPP) GTEST_SKIP() << e.sentence();
    throw;
  }
  if (fs::exists(path("between"))) {
    ASSERT_EQ(::system(("cd " + dir_ + " && sh ./between").c_str()), 0);
  }
  const ResumeResult result = thaw(*image);
  std::ofstream(path("go")) << "";
  ASSERT_TRUE(wait_file("result"));
  EXPECT_EQ(content("result"), "ok\n");
  const int status = reap();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  RecordProperty("resume_us", static_cast<int>(result.total_ns / 1000));
}

std::vector<std::string> programs() {
  std::istringstream names(CHECK_PROGRAMS);
  return {std::istream_iterator<std::string>(names), {}};
}

INSTANTIATE_TEST_SUITE_P(Programs, ResumeProgramTest, testing::ValuesIn(programs()),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace ckpt
