// The mounted tree, on images that are made in the store before: no process is checkpointed here.
#include "mount.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <random>

#include "engine/store/store.h"

namespace ckpt_test {
namespace {

constexpr uid_t kUser = 12345;
constexpr uid_t kOther = 12346;
constexpr size_t kSegment = 3 * (1 << 20) + 4096;

std::string noise(size_t size) {
  std::mt19937_64 random(7);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

/// An image as a capture would make it, but of no process: enough for everything short of a resume.
void make_image(ckpt::Store& store, const std::string& name, uid_t uid) {
  const auto image = store.begin_image(name);
  image->put("cmdline", "sleep");
  image->put("fds/0", "type file\npath /dev/null\n");
  image->put("fds/1", "type file\npath /dev/zero\n");
  image->put("registers/4000000", "rip 0x1\n");
  image->put_link("exe", "/bin/sleep");
  const std::string content = noise(kSegment);
  const auto segment = image->create("segments/1000-2000", content.size());
  for (size_t at = 0; at < content.size(); at += ckpt::kBlockSize) {
    segment->put_block(at / ckpt::kBlockSize,
                       std::as_bytes(std::span(content)).subspan(at, std::min(ckpt::kBlockSize, content.size() - at)));
  }
  ckpt::ManifestHeader header;
  header.machine = "x86_64";
  header.time_ns = 1'700'000'000'000'000'000;
  header.pid = 4000000;
  header.pids = {4000000};
  header.command = "sleep";
  header.engine = "ptrace";
  header.uid = header.gid = uid;
  image->write_manifest(header);
  image->commit(name);
}

/// Runs a shell command as another user, without any capability.
CommandResult run_as(uid_t uid, const std::string& command) {
  const std::string id = std::to_string(uid);
  return run({"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "sh", "-c", command});
}

CommandResult sh(const std::string& command) { return run({"bash", "-c", command}); }

class MountTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "mounts for several users: needs root";
    ASSERT_TRUE(mount_.mounted());
    ASSERT_EQ(mount_.stop(), 0);
    {
      const auto store = ckpt::open_rocksdb_store(mount_.scratch() + "/store");
      make_image(*store, "4000000", 0);
      make_image(*store, "mine", kUser);
    }
    ASSERT_TRUE(mount_.start());
  }

  std::string path(const std::string& below) const { return mount_.path(below); }
  std::string image(const std::string& below = {}) const { return path("images/4000000") + "/" + below; }
  std::string scratch(const std::string& below) const { return mount_.scratch() + "/" + below; }

  void expect_same_tree(const std::string& a, const std::string& b) {
    const CommandResult result = run({"diff", "-r", "--no-dereference", a, b});
    EXPECT_EQ(result.status, 0) << result.output;
  }

  Mount mount_;
};

/// Calls `f` with the rights to files of another user.
void as_user(uid_t uid, const std::function<void()>& f) {
  ASSERT_EQ(::setresgid(-1, uid, -1), 0);
  ASSERT_EQ(::setresuid(-1, uid, -1), 0);
  f();
  ASSERT_EQ(::setresuid(-1, 0, -1), 0);
  ASSERT_EQ(::setresgid(-1, 0, -1), 0);
}

TEST_F(MountTest, TheTree) {
  EXPECT_EQ(run({"ls", mount_.path()}).output, "cores\nctl\nimages\nrestore\nstats\n");
  EXPECT_EQ(run({"ls", path("images")}).output, "4000000\nmine\n");
  EXPECT_EQ(run({"ls", image()}).output, "cmdline\nexe\nfds\nmanifest\nregisters\nsegments\n");
  EXPECT_EQ(run({"readlink", image("exe")}).output, "/bin/sleep\n");
  EXPECT_EQ(read_file(image("fds/0")), "type file\npath /dev/null\n");
  EXPECT_EQ(read_file(image("segments/1000-2000")), noise(kSegment));
  EXPECT_EQ(run({"find", path("images"), "-type", "f", "-size", "+0"}).status, 0);
  EXPECT_EQ(run({"grep", "-rl", "dev/zero", path("images")}).output,
            image("fds/1") + "\n" + path("images/mine") + "/fds/1\n");
}

TEST_F(MountTest, Attributes) {
  struct stat s {};
  ASSERT_EQ(::stat(image("segments/1000-2000").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode, static_cast<mode_t>(S_IFREG | 0600));
  EXPECT_EQ(s.st_size, static_cast<off_t>(kSegment));
  EXPECT_GE(s.st_blocks * 512, s.st_size);
  EXPECT_EQ(s.st_mtime, 1'700'000'000);
  ASSERT_EQ(::stat(path("images/mine").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode, static_cast<mode_t>(S_IFDIR | 0700));
  EXPECT_EQ(s.st_uid, kUser);
  EXPECT_EQ(s.st_nlink, 5u);
  // cp -r goes by ascending inode number: the manifest must be last.
  const CommandResult numbers = sh("ls -i " + image() + " | sort -n | tail -1");
  EXPECT_NE(numbers.output.find(" manifest"), std::string::npos) << numbers.output;
  struct statvfs figures {};
  ASSERT_EQ(::statvfs(mount_.path().c_str(), &figures), 0);
  EXPECT_GT(figures.f_blocks, 0u);
  EXPECT_EQ(run({"df", mount_.path()}).status, 0);
  EXPECT_EQ(run({"du", "-s", image()}).status, 0);
}

TEST_F(MountTest, SeekingFindsDataOnly) {
  const int fd = ::open(image("segments/1000-2000").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(::lseek(fd, 5, SEEK_DATA), 5);
  EXPECT_EQ(::lseek(fd, 5, SEEK_HOLE), static_cast<off_t>(kSegment));
  EXPECT_EQ(::lseek(fd, kSegment, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
  ::close(fd);
}

TEST_F(MountTest, ImagesAreReadOnly) {
  EXPECT_EQ(::open(image("fds/0").c_str(), O_WRONLY), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::open(image("fds/9").c_str(), O_WRONLY | O_CREAT, 0600), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::mkdir(image("x").c_str(), 0700), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::chmod(image("fds/0").c_str(), 0644), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::rename(image("fds/0").c_str(), image("fds/7").c_str()), -1);
  EXPECT_EQ(errno, EROFS);
}

TEST_F(MountTest, CopiesOutAreTheSame) {
  for (const std::string& copy : {"cp -r " + image() + " " + scratch("r"), "cp -a " + image() + " " + scratch("a"),
                                  "rsync -a " + image() + " " + scratch("rs"),
                                  "mkdir " + scratch("t") + " && tar -C " + image() + " -cf - . | tar -C " +
                                      scratch("t") + " -xf -"}) {
    const CommandResult result = sh(copy);
    EXPECT_EQ(result.status, 0) << copy << "\n" << result.output;
  }
  for (const char* name : {"r", "a", "rs", "t"}) expect_same_tree(image(), scratch(name));
}

TEST_F(MountTest, ImagesAreTheirOwners) {
  EXPECT_EQ(run_as(kUser, "cat " + path("images/mine/fds/0")).status, 0);
  EXPECT_EQ(run_as(kUser, "ls " + path("images")).output, "mine\n");
  EXPECT_NE(run_as(kOther, "cat " + path("images/mine/fds/0")).status, 0);
  EXPECT_NE(run_as(kOther, "ls " + path("images/mine")).status, 0);
  EXPECT_NE(run_as(kUser, "ls " + path("images/4000000")).status, 0);
  EXPECT_NE(run_as(kOther, "mv " + path("images/mine") + " " + path("images/stolen")).status, 0);
  EXPECT_NE(run_as(kOther, "rm -rf " + path("images/mine")).status, 0);
  EXPECT_NE(run_as(kOther, "echo delete mine > " + path("ctl")).status, 0);
  EXPECT_NE(run_as(kOther, "echo restore mine > " + path("ctl")).status, 0);
  EXPECT_EQ(run_as(kOther, "cat " + path("ctl")).output,
            "images/mine: only its owner may delete it\nimages/mine: belongs to another user\n");
  EXPECT_TRUE(exists(path("images/mine/manifest")));
}

TEST_F(MountTest, RenameAndRemove) {
  EXPECT_EQ(run({"mv", image(), path("images/label")}).status, 0);
  EXPECT_FALSE(exists(image("manifest")));
  EXPECT_EQ(read_file(path("images/label/cmdline")), "sleep");
  EXPECT_NE(run({"mv", "-T", path("images/label"), path("images/mine")}).status, 0);
  EXPECT_EQ(run({"rm", "-r", path("images/label")}).status, 0);
  EXPECT_EQ(run({"ls", path("images")}).output, "mine\n");
  EXPECT_EQ(run_as(kUser, "rm -r " + path("images/mine")).status, 0);
  EXPECT_EQ(run({"ls", path("images")}).output, "");
}

TEST_F(MountTest, AHalfRemovedImageIsWholeAfterwards) {
  EXPECT_EQ(::unlink(image("manifest").c_str()), 0);
  EXPECT_EQ(::unlink(image("fds/0").c_str()), 0);
  EXPECT_FALSE(exists(image("manifest")));
  EXPECT_EQ(::rmdir(path("images/4000000").c_str()), -1);
  EXPECT_EQ(errno, ENOTEMPTY);
  ASSERT_EQ(mount_.stop(), 0);
  ASSERT_TRUE(mount_.start());
  EXPECT_TRUE(exists(image("manifest")));
  EXPECT_TRUE(exists(image("fds/0")));
}

TEST_F(MountTest, CopyInsideImports) {
  for (const char* how : {"cp -r", "cp -a"}) {
    const CommandResult result = sh(std::string(how) + " " + image() + " " + path("images/copy"));
    ASSERT_EQ(result.status, 0) << how << "\n" << result.output;
    expect_same_tree(image(), path("images/copy"));
    EXPECT_EQ(::open(path("images/copy/fds/0").c_str(), O_WRONLY), -1);
    EXPECT_EQ(errno, EROFS);
    ASSERT_EQ(run({"rm", "-r", path("images/copy")}).status, 0);
  }
}

TEST_F(MountTest, ImportsFromOutsideByEveryTool) {
  const std::string archive = scratch("archive");
  ASSERT_EQ(run({"cp", "-a", image(), archive}).status, 0);
  const std::string target = path("images/new");
  for (const std::string& copy :
       {"cp -r " + archive + " " + target, "cp -a " + archive + " " + target,
        "rsync -a " + archive + "/ " + target + "/",
        "mkdir " + target + " && tar -C " + archive + " -cf - . | tar -C " + target + " -xf -"}) {
    const CommandResult result = sh(copy);
    EXPECT_EQ(result.status, 0) << copy << "\n" << result.output;
    EXPECT_NE(run({"cat", path("ctl")}).output.find("images/new: imported\n"), std::string::npos) << copy;
    expect_same_tree(archive, target);
    const CommandResult removed = run({"rm", "-r", target});
    ASSERT_EQ(removed.status, 0) << removed.output;
  }
}

TEST_F(MountTest, AnImportIsRefusedWhereTheNameIsTaken) {
  EXPECT_EQ(::mkdir(path("images/mine").c_str(), 0700), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(::mkdir(path("images/a b").c_str(), 0700), -1);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(MountTest, ADamagedImportIsTheErrorOfTheClose) {
  const std::string archive = scratch("archive");
  ASSERT_EQ(run({"cp", "-a", image(), archive}).status, 0);
  write_file(archive + "/fds/0", "type file\npath /dev/full\n");
  CommandResult result = run({"cp", "-r", archive, path("images/new")});
  EXPECT_NE(result.status, 0);
  EXPECT_NE(result.output.find("Invalid argument"), std::string::npos) << result.output;
  EXPECT_NE(run({"cat", path("ctl")}).output.find("fds/0"), std::string::npos);
  EXPECT_FALSE(exists(path("images/new/manifest")));
}

TEST_F(MountTest, AShortFileIsNamed) {
  const std::string archive = scratch("archive");
  ASSERT_EQ(run({"cp", "-a", image(), archive}).status, 0);
  ASSERT_EQ(::truncate((archive + "/segments/1000-2000").c_str(), 4096), 0);
  EXPECT_NE(run({"cp", "-a", archive, path("restore/")}).status, 0);
  EXPECT_NE(read_file(path("restore/archive/error")).find("segments/1000-2000 has 4096 bytes"), std::string::npos);
  const CommandResult removal = run({"rm", "-r", path("restore/archive")});
  EXPECT_EQ(removal.status, 0) << removal.output;
  EXPECT_FALSE(exists(path("restore/archive")));
}

TEST_F(MountTest, ALinkThatIsTheLastAndRefusedCanBeRemoved) {
  const std::string archive = scratch("archive"), drop = path("restore/archive");
  ASSERT_EQ(run({"cp", "-a", image(), archive}).status, 0);
  ASSERT_EQ(::truncate((archive + "/segments/1000-2000").c_str(), 4096), 0);
  ASSERT_EQ(::rename((archive + "/exe").c_str(), scratch("exe").c_str()), 0);
  EXPECT_EQ(run({"cp", "-a", archive, path("restore/")}).status, 0);
  EXPECT_NE(run({"cp", "-a", scratch("exe"), drop + "/exe"}).status, 0);
  EXPECT_NE(read_file(drop + "/error").find("segments/1000-2000 has 4096 bytes"), std::string::npos);
  const CommandResult removal = run({"rm", "-r", drop});
  EXPECT_EQ(removal.status, 0) << removal.output;
  EXPECT_FALSE(exists(drop));
}

TEST_F(MountTest, AnIncompleteDropTellsWhatIsMissing) {
  ASSERT_EQ(::mkdir(path("restore/x").c_str(), 0700), 0);
  EXPECT_NE(read_file(path("restore/x/error")).find("manifest"), std::string::npos);
  ASSERT_EQ(run({"cp", image("manifest"), path("restore/x/")}).status, 0);
  EXPECT_NE(read_file(path("restore/x/error")).find("incomplete"), std::string::npos);
  EXPECT_EQ(run({"rm", "-r", path("restore/x")}).status, 0);
}

TEST_F(MountTest, WhatWasSaidOfAManifestStaysUntilItIsMended) {
  const std::string dir = path("restore/bad");
  ASSERT_EQ(::mkdir(dir.c_str(), 0700), 0);
  const std::string bad = scratch("bad");
  ASSERT_EQ(run({"sh", "-c", "echo '{\"format\": 99}' > " + bad}).status, 0);
  EXPECT_NE(run({"cp", bad, dir + "/manifest"}).status, 0);
  const std::string sentence = read_file(dir + "/error");
  EXPECT_NE(sentence.find("manifest"), std::string::npos) << sentence;
  EXPECT_EQ(sentence.find("incomplete"), std::string::npos) << sentence;
  // cp goes on with the other files after the one that failed.
  ASSERT_EQ(run({"cp", image("fds/0"), dir + "/later"}).status, 0);
  EXPECT_EQ(read_file(dir + "/error"), sentence);
  ASSERT_EQ(run({"cp", image("manifest"), dir + "/manifest"}).status, 0);
  EXPECT_NE(read_file(dir + "/error").find("incomplete"), std::string::npos);
  EXPECT_EQ(run({"rm", "-r", dir}).status, 0);
}

TEST_F(MountTest, AFailedResumeLeavesItsReason) {
  // The image is of no process: its resume fails, whatever the engine finds first.
  const CommandResult result = run({"cp", "-a", image(), path("restore/")});
  EXPECT_NE(result.status, 0);
  EXPECT_EQ(run({"ls", path("restore/4000000")}).output, "error\n");
  EXPECT_FALSE(read_file(path("restore/4000000/error")).empty());
  EXPECT_NE(run({"cp", "-a", image(), path("restore/")}).status, 0);
  EXPECT_EQ(run({"rm", "-r", path("restore/4000000")}).status, 0);
}

TEST_F(MountTest, CtlRefusesWithASentence) {
  const Outcome unknown = mount_.command("frobnicate");
  EXPECT_EQ(unknown.error, EINVAL);
  EXPECT_EQ(unknown.sentence, "ctl: unknown word 'frobnicate'\n");
  EXPECT_EQ(mount_.command("4999999").error, ESRCH);
  EXPECT_EQ(mount_.command("delete nothing").error, ENOENT);
  EXPECT_EQ(mount_.command("restore nothing").error, ENOENT);
  EXPECT_EQ(mount_.write_ctl(noise(100'000)).error, EINVAL);
  const CommandResult shell = sh("echo frobnicate > " + path("ctl"));
  EXPECT_NE(shell.output.find("Invalid argument"), std::string::npos) << shell.output;
}

TEST_F(MountTest, AllLinesOfAWriteAreRun) {
  const Outcome outcome = mount_.write_ctl("frobnicate\ndelete 4000000\n");
  EXPECT_EQ(outcome.error, EINVAL);
  EXPECT_EQ(outcome.sentence, "ctl: unknown word 'frobnicate'\ndelete 4000000: deleted\n");
  EXPECT_FALSE(exists(image("manifest")));
}

TEST_F(MountTest, AShellReadsItsOwnOutcome) {
  const CommandResult result = sh("echo delete nothing > " + path("ctl") + " 2>/dev/null; cat " + path("ctl"));
  EXPECT_NE(result.output.find("nothing"), std::string::npos) << result.output;
}

TEST_F(MountTest, Stats) {
  const std::string stats = read_file(path("stats"));
  EXPECT_EQ(stats.substr(0, 9), "images 2\n");
  for (const char* name : {"logical_bytes ", "unique_pages ", "stored_bytes ", "dedup_ratio ", "packs "}) {
    EXPECT_NE(stats.find(std::string("\n") + name), std::string::npos) << name;
  }
}

TEST_F(MountTest, ASecondInstanceOnTheStoreSaysSo) {
  const std::string second = scratch("second");
  std::filesystem::create_directory(second);
  const CommandResult result =
      run({CKPT_BIN_DIR "/ckptfs", "-o", "store=" + scratch("store"), second});
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("another ckptfs has this store open"), std::string::npos) << result.output;
}

TEST_F(MountTest, SigtermUnmounts) {
  const pid_t daemon = mount_.daemon();
  ASSERT_EQ(::kill(daemon, SIGTERM), 0);
  EXPECT_TRUE(wait_until([&] { return read_file("/proc/self/mountinfo").find(mount_.path()) == std::string::npos; }));
  EXPECT_EQ(mount_.stop(), 0);
}

TEST(Unmount, BySigtermWhateverSignalsWereBlocked) {
  sigset_t all, before;
  sigfillset(&all);
  ASSERT_EQ(sigprocmask(SIG_SETMASK, &all, &before), 0);
  Mount mount;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(mount.mounted());
  ASSERT_EQ(::kill(mount.daemon(), SIGTERM), 0);
  EXPECT_TRUE(wait_until([&] { return read_file("/proc/self/mountinfo").find(mount.path()) == std::string::npos; }));
  EXPECT_EQ(mount.stop(), 0);
}

TEST_F(MountTest, AReaderOfAnImageSurvivesItsDeletion) {
  const int fd = ::open(image("segments/1000-2000").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(run({"rm", "-r", path("images/4000000")}).status, 0);
  std::string content(kSegment, '\0');
  size_t done = 0;
  for (ssize_t n; done < kSegment && (n = ::pread(fd, content.data() + done, kSegment - done, done)) > 0; done += n) {
  }
  EXPECT_EQ(content, noise(kSegment));
  ::close(fd);
}

TEST(Ckptfs, Usage) {
  const CommandResult help = run({CKPT_BIN_DIR "/ckptfs", "--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.output.find("store=DIR"), std::string::npos);
  EXPECT_EQ(run({CKPT_BIN_DIR "/ckptfs", "--version"}).status, 0);
  EXPECT_NE(run({CKPT_BIN_DIR "/ckptfs"}).status, 0);
  const TemporaryDirectory directory;
  const std::string mountpoint = directory.path() + "/mnt";
  EXPECT_NE(run({CKPT_BIN_DIR "/ckptfs", "-o", "store=" + directory.path() + "/store", mountpoint}).status, 0);
  for (const std::string& wrong : {directory.path() + "/nothing", directory.path() + "/file"}) {
    if (wrong.ends_with("file")) write_file(wrong, "untouched");
    const CommandResult refused = run({CKPT_BIN_DIR "/ckptfs", "-o", "store=" + directory.path() + "/store", wrong});
    EXPECT_NE(refused.status, 0);
    EXPECT_TRUE(refused.output.starts_with("ckptfs: " + wrong + ": cannot be mounted on: ")) << refused.output;
    EXPECT_EQ(std::ranges::count(refused.output, '\n'), 1) << refused.output;
  }
  EXPECT_EQ(read_file(directory.path() + "/file"), "untouched");
  std::filesystem::create_directory(mountpoint);
  const std::string options = "nonsense,store=" + directory.path() + "/store";
  EXPECT_NE(run({CKPT_BIN_DIR "/ckptfs", "-o", options, mountpoint}).status, 0);
  EXPECT_FALSE(exists(directory.path() + "/store")) << "a wrong use has made a store";
}

TEST(Ckptfs, TellsTheServiceManagerThatItIsMounted) {
  const TemporaryDirectory directory;
  const std::string mountpoint = directory.path() + "/mnt", path = directory.path() + "/notify";
  std::filesystem::create_directory(mountpoint);
  const int manager = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  ASSERT_EQ(::bind(manager, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const CommandResult started = run({"env", "NOTIFY_SOCKET=" + path, CKPT_BIN_DIR "/ckptfs", "-o",
                                     "store=" + directory.path() + "/store", mountpoint});
  EXPECT_EQ(started.status, 0) << started.output;
  char said[64];
  const ssize_t n = ::recv(manager, said, sizeof(said), 0);
  EXPECT_EQ(std::string(said, n > 0 ? static_cast<size_t>(n) : 0), "READY=1");
  ::close(manager);
  EXPECT_TRUE(exists(mountpoint + "/ctl"));
  EXPECT_EQ(run({"fusermount3", "-u", mountpoint}).status, 0);
  // Its store is closed when it has ended.
  EXPECT_TRUE(wait_until([&] {
    return run({CKPT_BIN_DIR "/ckpt", "--store", directory.path() + "/store", "ls"}).status == 0;
  }));
}

TEST_F(MountTest, CtlLentToRootObeysItsOpener) {
  int ctl = -1;
  as_user(kUser, [&] { ctl = ::open(path("ctl").c_str(), O_RDWR | O_CLOEXEC); });
  ASSERT_GE(ctl, 0);
  // As a set-uid program would write it to the stderr that a user has given it.
  const std::string command = "delete 4000000\n";
  EXPECT_EQ(::write(ctl, command.data(), command.size()), -1);
  EXPECT_EQ(errno, EPERM);
  ::close(ctl);
  EXPECT_TRUE(exists(image()));
}

TEST_F(MountTest, OneUserFillsAnImage) {
  as_user(kUser, [&] {
    ASSERT_EQ(::mkdir(path("restore/his").c_str(), 0777), 0);
    ASSERT_EQ(::chmod(path("restore/his").c_str(), 0777), 0);
  });
  as_user(kOther, [&] {
    EXPECT_EQ(::open(path("restore/his/cmdline").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
    EXPECT_EQ(errno, EPERM);
  });
  as_user(kUser, [&] { EXPECT_EQ(::rmdir(path("restore/his").c_str()), 0); });
}

TEST_F(MountTest, ANameTooLongForAnImageChangesNothing) {
  const std::string to = path("restore/long");
  ASSERT_EQ(::mkdir(to.c_str(), 0700), 0);
  ASSERT_EQ(::mkdir((to + "/fds").c_str(), 0700), 0);
  write_file(to + "/fds/0", "type file\n");
  EXPECT_EQ(::rename((to + "/fds/0").c_str(), (to + "/" + std::string(300, 'x')).c_str()), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(::rename((to + "/fds").c_str(), (to + "/" + std::string(300, 'x')).c_str()), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(read_file(to + "/fds/0"), "type file\n");
  EXPECT_EQ(sh("rm -r " + to).status, 0);
}

// cp unlinks a symbolic link before it makes it anew, and then may not.
TEST_F(MountTest, AnImageIsWholeAfterACopyOverIt) {
  ASSERT_EQ(run({"cp", "-r", image(), scratch("copy")}).status, 0);
  EXPECT_NE(sh("cp -r " + scratch("copy") + "/. " + image()).status, 0);
  EXPECT_NE(sh("ln -sf /bin/true " + image("exe")).status, 0);
  expect_same_tree(image(), scratch("copy"));
}

TEST_F(MountTest, ALabelDoesNotPushAnothersImageAside) {
  const CommandResult result = run_as(kUser, "sleep 1000 & echo $! name=4000000 > " + path("ctl") + "; cat " +
                                                 path("ctl") + "; kill $!");
  EXPECT_NE(result.output.find("another user's"), std::string::npos) << result.output;
  EXPECT_TRUE(exists(image()));
  EXPECT_FALSE(exists(path("images/4000000@1")));
}

}  // namespace
}  // namespace ckpt_test
