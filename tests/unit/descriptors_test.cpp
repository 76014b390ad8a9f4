#include <linux/netlink.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <chrono>

#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

TEST_F(DescriptorTest, FilesComeBackWithPositionAndFlags) {
  write_file("data", "0123456789");
  const int fd = open(path("data").c_str(), O_RDWR | O_APPEND | O_CLOEXEC);
  ASSERT_EQ(lseek(fd, 4, SEEK_SET), 4);
  const std::string before = fdinfo(fd);
  round_trip({fd});
  EXPECT_EQ(fdinfo(fd), before);
  char c = 0;
  EXPECT_EQ(read(fd, &c, 1), 1);
  EXPECT_EQ(c, '4');
  close(fd);
}

TEST_F(DescriptorTest, DuplicatesShareOneDescriptionAgain) {
  write_file("data", "0123456789");
  const int a = open(path("data").c_str(), O_RDONLY);
  const int b = dup(a);
  const int c = open(path("data").c_str(), O_RDONLY);
  const int d = fcntl(a, F_DUPFD_CLOEXEC, 0);
  round_trip({a, b, c, d});
  EXPECT_EQ(lseek(a, 7, SEEK_SET), 7);
  EXPECT_EQ(lseek(b, 0, SEEK_CUR), 7);
  EXPECT_EQ(lseek(c, 0, SEEK_CUR), 0);
  EXPECT_EQ(lseek(d, 0, SEEK_CUR), 7);
  EXPECT_EQ(fcntl(b, F_GETFD), 0);
  EXPECT_EQ(fcntl(d, F_GETFD), FD_CLOEXEC);
  for (const int fd : {a, b, c, d}) close(fd);
}

TEST_F(DescriptorTest, ARenamedFileIsFoundAgain) {
  if (geteuid() != 0) GTEST_SKIP() << "open_by_handle_at needs root";
  write_file("old", "content");
  const int fd = open(path("old").c_str(), O_RDONLY);
  capture({fd});
  close(fd);
  ASSERT_EQ(rename(path("old").c_str(), path("new").c_str()), 0);
  restore();
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd)), path("new"));
  close(fd);
  // A file that took the old name does not matter.
  write_file("old", "another content");
  restore();
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd)), path("new"));
  close(fd);
}

TEST_F(DescriptorTest, AChangedOrMissingFileIsRefusedByName) {
  write_file("data", "0123456789");
  const int fd = open(path("data").c_str(), O_RDONLY);
  capture({fd});
  close(fd);
  write_file("data", "0123456789+");
  Error e = restore_error();
  EXPECT_EQ(e.err(), ESTALE);
  EXPECT_NE(e.sentence().find(path("data")), std::string::npos) << e.sentence();
  EXPECT_NE(e.sentence().find("10"), std::string::npos) << e.sentence();
  unlink(path("data").c_str());
  e = restore_error();
  EXPECT_EQ(e.err(), ENOENT);
  EXPECT_NE(e.sentence().find(path("data")), std::string::npos) << e.sentence();
  ASSERT_EQ(mkfifo(path("data").c_str(), 0600), 0);
  EXPECT_EQ(restore_error().err(), ESTALE) << "a FIFO must not be opened in place of a file";
}

TEST_F(DescriptorTest, AnOutputFileMayHaveGrownButNotShrunk) {
  write_file("log", "line\n");
  const int fd = open(path("log").c_str(), O_WRONLY | O_APPEND);
  capture({fd});
  write_all(fd, "later\n", "log");
  close(fd);
  restore();
  close(fd);
  ASSERT_EQ(truncate(path("log").c_str(), 2), 0);
  EXPECT_EQ(restore_error().err(), ESTALE);
}

TEST_F(DescriptorTest, DirectoriesGoOnWhereTheyWere) {
  for (int i = 0; i < 40; ++i) write_file(fmt::format("f{}", i), "");
  const int fd = open(dir_.c_str(), O_RDONLY | O_DIRECTORY);
  // Zeros: the kernel does not write the bytes between two entries.
  char buffer[512], rest[16384] = {}, again[16384] = {};
  ASSERT_GT(::syscall(SYS_getdents64, fd, buffer, sizeof buffer), 0);
  capture({fd});
  const long n = ::syscall(SYS_getdents64, fd, rest, sizeof rest);
  ASSERT_GT(n, 0);
  close(fd);
  restore();
  EXPECT_EQ(::syscall(SYS_getdents64, fd, again, sizeof again), n);
  EXPECT_EQ(std::memcmp(rest, again, static_cast<size_t>(n)), 0);
  close(fd);
}

TEST_F(DescriptorTest, PipesKeepContentCapacityAndFlags) {
  int p[2];
  ASSERT_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
  ASSERT_GE(fcntl(p[0], F_SETPIPE_SZ, 1 << 18), 1 << 18);
  std::string content;
  for (int i = 0; i < 50; ++i) {
    const std::string piece(static_cast<size_t>(i * 37 + 1), static_cast<char>('a' + i % 26));
    write_all(p[1], piece, "pipe");
    content += piece;
  }
  const auto flags = [&] { return std::make_pair(fcntl(p[0], F_GETFL), fcntl(p[1], F_GETFL)); };
  const auto old_flags = flags();
  capture({p[0], p[1]});
  int waiting = 0;
  ASSERT_EQ(ioctl(p[0], FIONREAD, &waiting), 0);
  EXPECT_EQ(static_cast<size_t>(waiting), content.size()) << "the capture must not consume anything";
  close(p[0]);
  close(p[1]);
  restore();
  EXPECT_EQ(flags(), old_flags);
  EXPECT_EQ(fcntl(p[0], F_GETPIPE_SZ), 1 << 18);
  std::string got(content.size() + 100, '\0');
  const ssize_t n = read(p[0], got.data(), got.size());
  ASSERT_GT(n, 0);
  got.resize(static_cast<size_t>(n));
  EXPECT_EQ(got, content);
  EXPECT_EQ(read(p[0], got.data(), 1), -1);
  EXPECT_EQ(errno, EAGAIN);
  close(p[1]);
  EXPECT_EQ(read(p[0], got.data(), 1), 0) << "no other writer may be left";
  close(p[0]);
}

TEST_F(DescriptorTest, PacketsOfAPipeStayApart) {
  int p[2];
  ASSERT_EQ(pipe2(p, O_DIRECT), 0);
  write_all(p[1], "one", "pipe");
  write_all(p[1], "three", "pipe");
  round_trip({p[0], p[1]});
  char buffer[64];
  EXPECT_EQ(read(p[0], buffer, sizeof buffer), 3);
  EXPECT_EQ(read(p[0], buffer, sizeof buffer), 5);
  EXPECT_NE(fcntl(p[1], F_GETFL) & O_DIRECT, 0);
  close(p[0]);
  close(p[1]);
}

TEST_F(DescriptorTest, BrokenPipesStayBroken) {
  int p[2];
  ASSERT_EQ(pipe(p), 0);
  write_all(p[1], "rest", "pipe");
  close(p[1]);
  round_trip({p[0]});
  char buffer[64];
  EXPECT_EQ(read(p[0], buffer, sizeof buffer), 4);
  EXPECT_EQ(read(p[0], buffer, sizeof buffer), 0);
  close(p[0]);
}

TEST_F(DescriptorTest, APipeToTheOutsideIsRefused) {
  int p[2];
  ASSERT_EQ(pipe(p), 0);
  EXPECT_EQ(refusal({p[1]}), fmt::format("{}: fd {}: a pipe whose other end is outside the process tree cannot be "
                                         "checkpointed", getpid(), p[1]));
  EXPECT_NE(refusal({p[0]}), "");
  EXPECT_EQ(refusal({p[0], p[1]}), "");
  close(p[0]);
  close(p[1]);
}

TEST_F(DescriptorTest, StatelessDevices) {
  const int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
  round_trip({null, zero});
  struct stat st = {};
  ASSERT_EQ(fstat(null, &st), 0);
  EXPECT_EQ(st.st_rdev, makedev(1, 3));
  ASSERT_EQ(fstat(zero, &st), 0);
  EXPECT_EQ(st.st_rdev, makedev(1, 5));
  EXPECT_EQ(fcntl(null, F_GETFL) & O_ACCMODE, O_RDWR);
  close(null);
  close(zero);
}

TEST_F(DescriptorTest, LocksAreTakenAgain) {
  write_file("a", "x");
  write_file("b", "x");
  const int a = open(path("a").c_str(), O_RDWR), b = open(path("b").c_str(), O_RDWR);
  ASSERT_EQ(flock(a, LOCK_EX), 0);
  struct flock posix = {};
  posix.l_type = F_WRLCK;
  posix.l_start = 100;
  posix.l_len = 10;
  ASSERT_EQ(fcntl(b, F_SETLK, &posix), 0);
  struct flock ofd = {};
  ofd.l_type = F_RDLCK;
  ofd.l_start = 500;
  ASSERT_EQ(fcntl(b, F_OFD_SETLK, &ofd), 0);
  capture({a, b});
  EXPECT_NE(record(a).find("lock flock write\n"), std::string::npos) << record(a);
  EXPECT_NE(record(b).find("lock posix write 100 109\n"), std::string::npos) << record(b);
  EXPECT_NE(record(b).find("lock ofd read 500 eof\n"), std::string::npos) << record(b);
  close(a);
  close(b);
  const UniqueFd intruder(high(open(path("a").c_str(), O_RDWR), 1000));
  ASSERT_EQ(flock(intruder.get(), LOCK_SH), 0);
  EXPECT_EQ(restore_error().err(), EAGAIN);
  ASSERT_EQ(flock(intruder.get(), LOCK_UN), 0);
  restore();
  EXPECT_EQ(flock(intruder.get(), LOCK_SH | LOCK_NB), -1);
  EXPECT_NE(fdinfo(b).find("POSIX  ADVISORY  WRITE"), std::string::npos);
  EXPECT_NE(fdinfo(b).find("OFDLCK ADVISORY  READ"), std::string::npos);
  close(a);
  close(b);
}

TEST_F(DescriptorTest, SignalOwnersComeBack) {
  int p[2];
  ASSERT_EQ(pipe(p), 0);
  ASSERT_EQ(fcntl(p[0], F_SETOWN, getpid()), 0);
  ASSERT_EQ(fcntl(p[0], F_SETSIG, SIGRTMIN), 0);
  ASSERT_EQ(fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK), 0);
  const int flags = fcntl(p[0], F_GETFL);
  round_trip({p[0], p[1]});
  EXPECT_EQ(fcntl(p[0], F_GETFL), flags);
  EXPECT_EQ(fcntl(p[0], F_GETOWN), getpid());
  EXPECT_EQ(fcntl(p[0], F_GETSIG), SIGRTMIN);
  image_.replace(fmt::format("fds/{}", p[0]), fmt::format("owner pid {}", getpid()), "owner pid 1");
  try {
    restore();
    ADD_FAILURE() << "an owner outside was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EPERM);
  }
  close(p[0]);
  close(p[1]);
}

TEST_F(DescriptorTest, RefusalsNameTheThing) {
  const int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
  EXPECT_NE(refusal({s}).find("a netlink socket"), std::string::npos) << refusal({s});
  close(s);
  int u[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, u), 0);
  EXPECT_NE(refusal({u[0]}).find("a unix socket"), std::string::npos) << refusal({u[0]});
  close(u[0]);
  close(u[1]);
}

TEST_F(DescriptorTest, InheritedDescriptorsReplaceTheImagesOwn) {
  write_file("a", "x");
  write_file("b", "x");
  const int a = open(path("a").c_str(), O_RDWR);
  const int twin = dup(a);
  capture({a, twin});
  close(a);
  close(twin);
  unlink(path("a").c_str());
  const UniqueFd b(high(open(path("b").c_str(), O_RDWR), 1000));
  restore({{a, b.get()}});
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", a)), path("b"));
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", twin)), path("b"));
  close(a);
  close(twin);
}

TEST_F(DescriptorTest, ForgedRecordsAreRefused) {
  image_.put("fds/3", "type file\npath /etc/../etc/passwd\npos 0\nflags 0x0\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.content("fds/3") = "type martian\n";
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.content("fds/3") = "type martian\nflags 0\n";
  EXPECT_EQ(restore_error().err(), EOPNOTSUPP);
  image_.content("fds/3") = "type file\nflags 0\nshares 3\n";
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.content("fds/3") = "type pipe\nflags 0\nobject ../fds/3\n";
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.remove("fds/3");
  image_.put("fds/03", "type file\nflags 0\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.remove("fds/03");
  image_.put("fds/4294967299", "type file\nflags 0\n");
  EXPECT_EQ(restore_error().err(), EINVAL);
}

TEST_F(DescriptorTest, PathsAreBelowTheProcessRoot) {
  write_file("data", "inside");
  ASSERT_EQ(symlink("/etc", path("out").c_str()), 0);
  const UniqueFd root = open_at(AT_FDCWD, dir_, O_PATH | O_DIRECTORY);
  RestoreContext ctx = restore_context();
  ctx.root_fd = root.get();
  image_.put("fds/3", "type file\npath /../../data\nmode 0100644\ndev 0:0\ninode 1\npos 0\nflags 0x0\n");
  const RestoredFds fds = restore_descriptors(ctx, {});
  EXPECT_EQ(read_all(fds.files.at(0).get(), "data"), "inside");
  image_.replace("fds/3", "/../../data", "/out/passwd");
  EXPECT_THROW(restore_descriptors(ctx, {}), Error);
}

TEST_F(DescriptorTest, AForgedPathDoesNotLeadToOurselves) {
  for (const char* path : {"/proc/self/maps", "/proc/thread-self/maps", "/proc/self/task", "/proc/self/root/proc/1/stat"}) {
    image_.put("fds/3", fmt::format("type file\npath {}\nmode 0100444\ndev 0:0\ninode 1\npos 0\nflags 0x0\n", path));
    EXPECT_EQ(restore_error().err(), EPERM) << path;
    image_.remove("fds/3");
  }
  image_.put("fds/3", "type file\npath /proc/meminfo\nmode 0100444\ndev 0:0\ninode 1\npos 0\nflags 0x0\n");
  restore_descriptors(restore_context(), {});
}

TEST_F(DescriptorTest, AFileOnALiveProcReopens) {
  const int fd = open("/proc/meminfo", O_RDONLY);
  char c[20];
  ASSERT_EQ(read(fd, c, sizeof c), 20);
  round_trip({fd});
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 20);
  close(fd);
}

TEST_F(DescriptorTest, TenThousandDescriptorsAreReadQuickly) {
  struct rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < 10'100) GTEST_SKIP() << "RLIMIT_NOFILE";
  const rlim_t soft = std::exchange(limit.rlim_cur, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<UniqueFd> fds;
  write_file("data", "x");
  for (int i = 0; i < 5000; ++i) {
    fds.emplace_back(eventfd(0, 0));
    fds.emplace_back(i % 2 == 0 ? dup(fds.back().get()) : open(path("data").c_str(), O_RDONLY));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto open_fds = read_fd_table(getpid(), proc_dir_.get());
  const auto taken = std::chrono::steady_clock::now() - start;
  EXPECT_LT(taken, std::chrono::seconds(20)) << "comparing every pair would take minutes";
  EXPECT_GT(open_fds.size(), 10'000u);
  EXPECT_EQ(std::count_if(open_fds.begin(), open_fds.end(), [&](auto& f) { return f.shares >= fds[0].get(); }), 2500);
  limit.rlim_cur = soft;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace
}  // namespace ckpt
