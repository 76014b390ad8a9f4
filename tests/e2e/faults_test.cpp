// Bad input and crashes: every error fits and says in a sentence what is wrong, and nobody is disturbed by it.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <regex>
#include <thread>

#include "program.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

class Faults : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mount_.mounted()); }

  /// A running self-checking program in a directory of its own.
  std::unique_ptr<CheckProgram> start(const std::string& name) {
    const std::string directory = scratch_.path() + "/program" + std::to_string(++started_);
    fs::create_directory(directory);
    auto program = std::make_unique<CheckProgram>(name, directory);
    if (!program->wait_ready()) return nullptr;
    return program;
  }

  void expect_unharmed(CheckProgram& program) {
    EXPECT_TRUE(program.running());
    program.go();
    EXPECT_EQ(program.wait_result(), "ok");
  }

  void expect_refused(const Outcome& outcome, int error, const std::string& word) {
    EXPECT_EQ(outcome.error, error) << strerror(outcome.error) << "\n" << outcome.sentence;
    EXPECT_NE(outcome.sentence.find(word), std::string::npos) << "no '" << word << "' in: " << outcome.sentence;
    // Nothing of it is left.
    for (const auto& entry : fs::directory_iterator(mount_.path("images")))
      ADD_FAILURE() << entry.path() << " was stored";
  }

  void expect_alive() { EXPECT_FALSE(read_file(mount_.path("stats")).empty()) << "ckptfs does not answer"; }

  Mount mount_;
  TemporaryDirectory scratch_;
  int started_ = 0;
};

/// An archive of a program that runs no more.
class FaultyImages : public Faults {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(Faults::SetUp());
    program_ = start("mem_private");
    ASSERT_TRUE(program_);
    name_ = std::to_string(program_->pid());
    const Outcome outcome = mount_.command(name_);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    archive_ = scratch_.path() + "/" + name_;
    ASSERT_TRUE(archive(mount_, name_, archive_));
  }

  std::string file(const std::string& name) const { return archive_ + "/" + name; }

  std::string first_segment() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(file("segments"))) all.push_back(entry.path());
    return all.empty() ? "" : *std::min_element(all.begin(), all.end());
  }

  /// The archive is refused for a reason that names `word`, and no process comes of it.
  void expect_not_resumed(const std::string& word) {
    if (!program_gone_) program_->kill_and_reap();
    program_gone_ = true;
    const std::string message = last_message_ = resume(mount_, archive_);
    EXPECT_NE(message, "") << "it was resumed";
    EXPECT_NE(message.find(word), std::string::npos) << "no '" << word << "' in: " << message;
    EXPECT_NE(kill(program_->pid(), 0), 0) << "a process is left";
    expect_alive();
  }

  /// The last close failed with this.
  void expect_said(int error) const {
    EXPECT_NE(last_message_.find(strerror(error)), std::string::npos) << last_message_;
  }

  /// Edits a file of the archive, wherever the pattern fits.
  void replace_line(const std::string& name, const std::string& pattern, const std::string& text) const {
    const std::string before = read_file(file(name));
    const std::string after = std::regex_replace(before, std::regex(pattern), text);
    ASSERT_TRUE(before != after) << name << " holds no " << pattern;
    write_file(file(name), after);
  }

  void seal() const {
    const CommandResult sealed = run({CKPT_BIN_DIR "/ckpt", "seal", archive_});
    ASSERT_EQ(sealed.status, 0) << sealed.output;
  }

  std::unique_ptr<CheckProgram> program_;
  bool program_gone_ = false;
  std::string last_message_;
  std::string name_, archive_;
};

void change_byte(const std::string& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char old = static_cast<char>(file.get());
  file.seekp(at);
  file.put(static_cast<char>(old ^ 1));
  ASSERT_TRUE(file.flush()) << path;
}

void replace_text(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << path << " holds no " << from;
  write_file(path, text.replace(at, from.size(), to));
}

TEST_F(Faults, no_such_process) {
  expect_refused(mount_.command("4194303"), ESRCH, "4194303");
  expect_refused(mount_.command("999999999999"), mount_.command("999999999999").error, "999999999999");
  EXPECT_NE(mount_.command("999999999999").error, 0);
}

TEST_F(Faults, not_a_command) {
  auto program = start("umask");
  ASSERT_TRUE(program);
  const std::string pid = std::to_string(program->pid());
  expect_refused(mount_.command("0"), EINVAL, "0");
  expect_refused(mount_.command("-1"), EINVAL, "-1");
  expect_refused(mount_.command("1.5"), EINVAL, "1.5");
  expect_refused(mount_.command(pid + " frobnicate"), EINVAL, "frobnicate");
  expect_refused(mount_.command(pid + " name=../../etc"), EINVAL, "../../etc");
  expect_refused(mount_.command(pid + " name="), EINVAL, "name");
  expect_refused(mount_.command("explode " + pid), EINVAL, "explode");
  expect_refused(mount_.command("restore nothing-of-this-name"), ENOENT, "nothing-of-this-name");
  expect_refused(mount_.command("delete nothing-of-this-name"), ENOENT, "nothing-of-this-name");
  expect_unharmed(*program);
}

TEST_F(Faults, noise_in_ctl) {
  std::mt19937 random(1);
  for (const int round : {0, 1, 2}) {
    std::string noise(100'000, 0);
    for (char& c : noise) c = static_cast<char>(round == 0 ? random() : round == 1 ? 'x' : "0123456789 \n"[random() % 12]);
    if (round == 2) noise = std::string(100'000, '\n');
    const Outcome outcome = mount_.write_ctl(noise);
    EXPECT_TRUE(round == 2 || outcome.error != 0) << "noise " << round << " was taken";
    expect_alive();
  }
  EXPECT_EQ(mount_.command("4194303").error, ESRCH);
}

TEST_F(Faults, kernel_thread) {
  pid_t found = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string stat = read_file(entry.path() / "stat");
    const size_t at = stat.rfind(") ");
    unsigned flags = 0;
    if (at != std::string::npos && sscanf(stat.c_str() + at + 2, "%*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
        (flags & 0x200000))  // PF_KTHREAD
      found = atoi(entry.path().filename().c_str());
  }
  if (found == 0) GTEST_SKIP() << "no kernel thread is visible here (a container)";
  expect_refused(mount_.command(std::to_string(found)), EINVAL, "kernel thread");
}

TEST_F(Faults, traced_process) {
  auto program = start("threads");
  ASSERT_TRUE(program);
  ASSERT_EQ(ptrace(PTRACE_SEIZE, program->pid(), 0, 0), 0) << strerror(errno);
  expect_refused(mount_.command(std::to_string(program->pid())), EBUSY, "traced");
  // The tracer must stop it to let it go.
  ASSERT_EQ(ptrace(PTRACE_INTERRUPT, program->pid(), 0, 0), 0);
  ASSERT_EQ(waitpid(program->pid(), nullptr, __WALL), program->pid());
  ASSERT_EQ(ptrace(PTRACE_DETACH, program->pid(), 0, 0), 0);
  expect_unharmed(*program);
}

TEST_F(Faults, zombie) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, child, &info, WEXITED | WNOWAIT), 0);
  expect_refused(mount_.command(std::to_string(child)), ESRCH, std::to_string(child));
  waitpid(child, nullptr, 0);
}

TEST_F(Faults, ckptfs_itself) {
  expect_refused(mount_.command(std::to_string(mount_.daemon())), EINVAL, "ckptfs");
  expect_alive();
}

TEST_F(Faults, unsupported_descriptor) {
  Program program({"perl", "-e", "$fd = syscall(323, 1); open F, '>', 'made' and print F $fd; close F; sleep 100"},
                  scratch_.path(), true);
  ASSERT_TRUE(wait_until([&] { return !read_file(program.path("made")).empty(); }));
  const std::string fd = read_file(program.path("made"));
  ASSERT_NE(fd, "-1") << "userfaultfd is not to be had";
  const Outcome outcome = mount_.command(std::to_string(program.pid()));
  expect_refused(outcome, EOPNOTSUPP, "fd " + fd);
  EXPECT_NE(outcome.sentence.find("userfaultfd"), std::string::npos) << outcome.sentence;
  EXPECT_TRUE(program.running());
}

TEST_F(Faults, store_full) {
  const TemporaryDirectory small;
  ASSERT_EQ(::mount("none", small.path().c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=4m"), 0) << strerror(errno);
  {
    Mount mount("store=" + small.path() + "/store");
    ASSERT_TRUE(mount.mounted());
    std::ofstream(small.path() + "/filling") << std::string(8 << 20, 'x');
    auto program = start("mem_private");
    ASSERT_TRUE(program);
    const std::string pid = std::to_string(program->pid());
    const Outcome outcome = mount.command(pid);
    EXPECT_EQ(outcome.error, ENOSPC) << outcome.sentence;
    const std::string store = small.path() + "/store", room = strerror(ENOSPC);
    EXPECT_TRUE(outcome.sentence.starts_with(pid + ": " + store)) << outcome.sentence;
    EXPECT_TRUE(outcome.sentence.ends_with(room + "\n")) << outcome.sentence;
    EXPECT_EQ(outcome.sentence.find(store), outcome.sentence.rfind(store)) << outcome.sentence;
    EXPECT_EQ(outcome.sentence.find(room), outcome.sentence.rfind(room)) << outcome.sentence;
    EXPECT_TRUE(fs::is_empty(mount.path("images")));
    expect_unharmed(*program);
  }
  EXPECT_EQ(::umount2(small.path().c_str(), MNT_DETACH), 0) << strerror(errno);
}

TEST_F(Faults, process_of_another) {
  auto program = start("umask");
  ASSERT_TRUE(program);
  const std::string ctl = mount_.path("ctl"), line = std::to_string(program->pid()) + "\n";
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(200);
    const int fd = open(ctl.c_str(), O_WRONLY);
    if (fd < 0) _exit(errno);
    _exit(write(fd, line.data(), line.size()) < 0 ? errno : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_TRUE(WEXITSTATUS(status) == EPERM || WEXITSTATUS(status) == EACCES) << strerror(WEXITSTATUS(status));
  EXPECT_TRUE(fs::is_empty(mount_.path("images")));
  expect_unharmed(*program);
}

// The last close may be made by another: a set-uid program that was given the descriptor closes it at its end.
TEST_F(FaultyImages, last_close_by_root) {
  program_->kill_and_reap();
  constexpr uid_t kUser = 65534;
  const std::string manifest = read_file(file("manifest"));
  fs::remove(file("manifest"));
  ASSERT_EQ(run({"chown", "-R", std::to_string(kUser), archive_}).status, 0);
  const std::string copy = "cp -r " + archive_ + " " + mount_.path("restore");
  const std::string user = std::to_string(kUser);
  const CommandResult copied = run({"setpriv", "--reuid", user, "--regid", user, "--clear-groups", "sh", "-c", copy});
  ASSERT_EQ(copied.status, 0) << copied.output;
  const std::string to = mount_.path("restore/" + name_);
  ASSERT_EQ(setresgid(-1, kUser, -1), 0);
  ASSERT_EQ(setresuid(-1, kUser, -1), 0);
  const int fd = open((to + "/manifest").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  EXPECT_EQ(write(fd, manifest.data(), manifest.size()), static_cast<ssize_t>(manifest.size()));
  ASSERT_EQ(setresuid(-1, 0, -1), 0);
  ASSERT_EQ(setresgid(-1, 0, -1), 0);
  EXPECT_EQ(close(fd), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_NE(read_file(to + "/error").find("is not the caller's"), std::string::npos) << read_file(to + "/error");
  EXPECT_FALSE(program_->running()) << "a plain user has resumed a process of root";
}

TEST_F(FaultyImages, pid_in_use) {
  const std::string message = resume(mount_, archive_);
  EXPECT_NE(message.find("File exists"), std::string::npos) << message;
  EXPECT_NE(message.find(name_), std::string::npos) << message;
  expect_unharmed(*program_);
}

TEST_F(FaultyImages, damaged_segment) {
  const std::string segment = first_segment();
  ASSERT_NE(segment, "");
  change_byte(segment, static_cast<std::streamoff>(fs::file_size(segment) / 2));
  expect_not_resumed(fs::path(segment).filename());
}

TEST_F(FaultyImages, short_segment) {
  const std::string segment = first_segment();
  ASSERT_NE(segment, "");
  fs::resize_file(segment, fs::file_size(segment) - 1);
  // An image that is not complete waits for the rest: cp succeeds, nothing is resumed, and the box tells what is
  // missing. A shorter file whose time has come is refused at once. Both name the file.
  program_->kill_and_reap();
  const std::string message = resume(mount_, archive_) + read_file(mount_.path("restore/" + name_ + "/error")) +
                              read_file(mount_.path("ctl"));
  EXPECT_NE(message.find(fs::path(segment).filename()), std::string::npos) << message;
  EXPECT_NE(kill(program_->pid(), 0), 0) << "a process is left";
  expect_alive();
}

TEST_F(FaultyImages, missing_file) {
  fs::remove(file("maps"));
  program_->kill_and_reap();
  // It may still come: the copy itself succeeds, and the image waits.
  EXPECT_EQ(resume(mount_, archive_), "");
  EXPECT_TRUE(exists(mount_.path("restore/" + name_ + "/manifest")));
  EXPECT_NE(kill(program_->pid(), 0), 0) << "a process is left";
  // And when it comes, the process runs.
  const std::string maps = read_file(mount_.path("images/" + name_ + "/maps"));
  write_file(mount_.path("restore/" + name_ + "/maps"), maps);
  program_->resumed();
  expect_unharmed(*program_);
}

TEST_F(FaultyImages, edited_and_not_sealed) {
  const std::string text = read_file(file("cmdline"));
  ASSERT_FALSE(text.empty());
  change_byte(file("cmdline"), 1);
  expect_not_resumed("cmdline");
}

// Killed in the middle of a file: nothing is resumed, what has come stays, and the next cp brings the rest.
TEST_F(FaultyImages, killed_cp) {
  const std::string segment = first_segment(), content = read_file(segment), box = mount_.path("restore/" + name_);
  ASSERT_GT(content.size(), 1u);
  fs::remove(segment);
  ASSERT_EQ(mkfifo(segment.c_str(), 0600), 0) << strerror(errno);
  program_->kill_and_reap();
  const pid_t copier = fork();
  if (copier == 0) {
    execlp("cp", "cp", "-r", "--copy-contents", archive_.c_str(), mount_.path("restore").c_str(), nullptr);
    _exit(127);
  }
  const int half = open(segment.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(half, 0) << strerror(errno);
  const size_t size = content.size() / 2;
  ASSERT_EQ(write(half, content.data(), size), static_cast<ssize_t>(size));
  const std::string there = box + "/segments/" + fs::path(segment).filename().string();
  EXPECT_TRUE(wait_until([&] { return exists(there) && fs::file_size(there) == size; }));
  EXPECT_EQ(kill(copier, SIGKILL), 0);
  EXPECT_EQ(waitpid(copier, nullptr, 0), copier);
  close(half);
  EXPECT_FALSE(program_->running());
  EXPECT_TRUE(exists(there));
  EXPECT_TRUE(exists(mount_.path("images/" + name_ + "/manifest")));
  fs::remove(segment);
  write_file(segment, content);
  EXPECT_EQ(resume(mount_, archive_), "");
  program_->resumed();
  expect_unharmed(*program_);
}

TEST_F(FaultyImages, damaged_registers) {
  const std::string registers = "registers/" + name_;
  const std::string text = read_file(file(registers));
  ASSERT_FALSE(text.empty());
  change_byte(file(registers), static_cast<std::streamoff>(text.size() - 2));
  expect_not_resumed(registers);
}

TEST_F(FaultyImages, manifest_of_noise) {
  write_file(file("manifest"), std::string(100'000, '['));
  expect_not_resumed("manifest");
}

TEST_F(FaultyImages, manifest_that_leads_out) {
  replace_text(file("manifest"), "\"maps\"", "\"../../../../etc/passwd\"");
  expect_not_resumed("passwd");
}

TEST_F(FaultyImages, of_a_newer_format) {
  replace_text(file("manifest"), "\"format\": 1", "\"format\": 2");
  expect_not_resumed("format 2");
}

TEST_F(FaultyImages, of_another_architecture) {
  replace_text(file("manifest"), "x86_64", "aarch64");
  expect_not_resumed("aarch64");
  expect_said(ENOEXEC);
}

TEST_F(FaultyImages, of_a_cpu_with_more_features) {
  replace_line("manifest", "\"xfeatures\": \"0x[0-9a-f]+\"", "\"xfeatures\": \"0x7fffffffffffffff\"");
  expect_not_resumed("XSAVE");
  expect_said(ENOEXEC);
}

TEST_F(FaultyImages, whose_file_has_another_size) {
  replace_line("files", "\nsize [0-9]+", "\nsize 12");
  seal();
  expect_not_resumed("size 12");
  expect_said(ESTALE);
}

TEST_F(FaultyImages, whose_file_was_written_since) {
  replace_line("files", "\nmtime_ns [0-9]+", "\nmtime_ns 12");
  seal();
  expect_not_resumed("modified");
  expect_said(ESTALE);
}

TEST_F(FaultyImages, whose_file_is_another_build) {
  replace_line("files", "\nbuild_id [0-9a-f]+", "\nbuild_id 1234abcd");
  seal();
  expect_not_resumed("build");
  expect_said(ESTALE);
}

TEST_F(FaultyImages, whose_file_is_gone) {
  replace_line("files", "\nhandle [^\n]*", "");
  replace_line("files", "\npath /", "\npath /no-such-directory/");
  seal();
  expect_not_resumed("/no-such-directory/");
  expect_said(ENOENT);
}

TEST_F(FaultyImages, intact_after_all) {
  program_->kill_and_reap();
  ASSERT_EQ(resume(mount_, archive_), "");
  program_->resumed();
  expect_unharmed(*program_);
}

/// ckptfs dies at a random instant of a checkpoint, many times over, with the same program.
TEST_F(Faults, killed_during_checkpoint) {
  auto program = start("mem_snapshot");
  auto threads = start("threads");
  ASSERT_TRUE(program && threads);
  const std::string lines[] = {std::to_string(program->pid()), std::to_string(threads->pid())};
  std::mt19937 random(std::random_device{}());
  // How long one takes, undisturbed.
  const auto before = std::chrono::steady_clock::now();
  ASSERT_EQ(mount_.command(lines[0]).error, 0);
  const auto whole = std::chrono::steady_clock::now() - before;
  int interrupted = 0;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> error{-1};
    std::thread writer([&, line = lines[round % 2]] { error = mount_.command(line).error; });
    std::this_thread::sleep_for(whole * (random() % 1200) / 1000 / (round % 2 ? 4 : 1));
    mount_.crash();
    writer.join();
    if (error != 0) ++interrupted;
    for (CheckProgram* one : {program.get(), threads.get()}) {
      ASSERT_FALSE(exists(one->path("result"))) << "round " << round << ": " << one->wait_result();
      ASSERT_TRUE(one->running()) << "round " << round;
      // Nobody traces it any more, and it has no child that it does not know.
      const std::string status = read_file("/proc/" + std::to_string(one->pid()) + "/status");
      ASSERT_NE(status.find("TracerPid:\t0"), std::string::npos) << "round " << round;
      const std::string children = "/proc/" + std::to_string(one->pid()) + "/task/" + std::to_string(one->pid());
      ASSERT_EQ(read_file(children + "/children"), "") << "round " << round;
    }
    ASSERT_TRUE(mount_.start()) << "round " << round;
    // Whatever is shown is whole.
    for (const auto& entry : fs::directory_iterator(mount_.path("images"))) {
      ASSERT_TRUE(exists(entry.path() / "manifest")) << "round " << round << ": " << entry.path();
      if (round % 10 != 9) continue;
      const CommandResult copied = run({"cp", "-a", entry.path(), scratch_.path() + "/copy"});
      ASSERT_EQ(copied.status, 0) << copied.output;
      const CommandResult checked = run({CKPT_BIN_DIR "/ckpt", "check", scratch_.path() + "/copy"});
      ASSERT_EQ(checked.status, 0) << "round " << round << ": " << checked.output;
      fs::remove_all(scratch_.path() + "/copy");
      fs::remove_all(entry.path());
    }
  }
  EXPECT_GT(interrupted, 5) << "hardly any checkpoint was under way when ckptfs was killed";
  expect_unharmed(*program);
  expect_unharmed(*threads);
}

}  // namespace
}  // namespace ckpt_test
