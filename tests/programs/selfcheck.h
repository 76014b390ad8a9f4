// What every self-checking program has in common. A program sets up one kernel resource, says that it is ready, waits
// until it is told to go on, and then verifies that everything is exactly as it was, from values that it kept in its
// own memory. Whether it was checkpointed, killed and resumed in between is none of its business.
//
// Protocol with whoever runs it:
//   argv[1]        a fresh directory, the program's own; it is made accessible to everybody (some drop their rights)
//   DIR/ready      written by the program when the resource is set up; holds its pid
//   DIR/between    optional, written before DIR/ready: a shell script that the runner executes (sh, in DIR) after the
//                  checkpoint, and after the kill where there is one, before the resume and before DIR/go
//   DIR/go         created by the runner: verify now
//   DIR/result     written by the program: "ok", or the first failed check in one sentence; it then ends with 0 or 1
// Files of the protocol appear in one step (written aside, then renamed). stdin, stdout and stderr are /dev/null.
// The program is the leader of its own session and has no terminal.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <string>

namespace selfcheck {

inline std::string directory;      ///< of the protocol
inline int64_t lived = 0;          ///< see life_ns()

inline std::string path(const std::string& name) { return directory + "/" + name; }

inline int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

inline timespec as_timespec(int64_t ns) { return {ns / 1000000000, ns % 1000000000}; }

/// Writes a whole file in one step. System calls only: it is also called from signal handlers and small stacks.
inline void write_file(const std::string& name, const char* text, size_t size) {
  const std::string there = path(name), aside = there + ".new";
  const int fd = open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0 || write(fd, text, size) != static_cast<ssize_t>(size) || close(fd) != 0 ||
      rename(aside.c_str(), there.c_str()) != 0)
    _exit(3);
}

/// Says what is wrong and ends the program, from any thread.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void failed(const char* format, ...) {
  char text[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text - 1, format, arguments);
  va_end(arguments);
  strcat(text, "\n");
  write_file("result", text, strlen(text));
  _exit(1);
}

/// A check: where `condition` does not hold, the sentence is the result.
#define REQUIRE(condition, ...)                        \
  do {                                                 \
    if (!(condition)) ::selfcheck::failed(__VA_ARGS__); \
  } while (0)

/// A call that must not fail: gives its result, or ends with "what: the error".
template <class T>
T must(T result, const char* what) {
  if (result == static_cast<T>(-1)) failed("%s: %s", what, strerror(errno));
  return result;
}

/// A mapping that must be possible.
inline char* must_map(void* result, const char* what) {
  if (result == reinterpret_cast<void*>(-1)) failed("%s: %s", what, strerror(errno));
  return static_cast<char*>(result);
}

/// First call of main.
inline void begin(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
    _exit(2);
  }
  directory = argv[1];
  setsid();
  close_range(3, ~0u, 0);  // whatever whoever ran us left open
  chmod(directory.c_str(), 0777);
}

inline void ready() {
  const std::string text = std::to_string(getpid()) + "\n";
  write_file("ready", text.data(), text.size());
}

inline void sleep_ns(int64_t ns) {
  const timespec t = as_timespec(ns);
  nanosleep(&t, nullptr);
}

/// Waits for DIR/go; between two looks, every 5 ms, `meanwhile` checks what can be checked all the time.
inline void wait_for_go(const std::function<void()>& meanwhile = {}) {
  const std::string go = path("go");
  int64_t before = now_ns();
  while (access(go.c_str(), F_OK) != 0) {
    if (meanwhile) meanwhile();
    sleep_ns(5'000'000);
    const int64_t after = now_ns();
    lived += after - before < 100'000'000 ? after - before : 100'000'000;
    before = after;
  }
}

/// Waits for something that another thread of the program brings about.
inline void wait_until(const std::function<bool()>& condition, const char* what) {
  const int64_t limit = now_ns() + 50'000'000'000;
  while (!condition()) {
    REQUIRE(now_ns() < limit, "waited 50 s in vain until %s", what);
    sleep_ns(1'000'000);
  }
}

/// Time spent alive in wait_for_go, in ns: what passes between kill and resume does not count (up to 0.1 s of it may).
inline int64_t life_ns() { return lived; }

/// Last call of main.
inline int passed() {
  write_file("result", "ok\n", 3);
  return 0;
}

inline std::string read_text(const std::string& file) {
  std::string text;
  const int fd = must(open(file.c_str(), O_RDONLY | O_CLOEXEC), file.c_str());
  char buffer[4096];
  for (ssize_t n; (n = must(read(fd, buffer, sizeof buffer), file.c_str())) > 0;) text.append(buffer, n);
  close(fd);
  return text;
}

inline std::string link_text(const std::string& link) {
  char text[4096];
  const ssize_t n = must(readlink(link.c_str(), text, sizeof text), link.c_str());
  return {text, static_cast<size_t>(n)};
}

/// The value of a "Name:\tvalue" line of a text like /proc/self/status; empty if there is none.
inline std::string line_value(const std::string& text, const std::string& name) {
  size_t at = text.rfind(name + ":", 0) == 0 ? 0 : text.find("\n" + name + ":");
  if (at == std::string::npos) return {};
  at = text.find_first_not_of(" \t", text.find(':', at) + 1);
  return text.substr(at, text.find('\n', at) - at);
}

inline std::string status_line(const std::string& name) { return line_value(read_text("/proc/self/status"), name); }

/// What /proc/self/smaps says of the mapping that begins at `start`, its first line included; empty if there is none.
inline std::string smaps_of(const void* start) {
  char begin_text[40];
  snprintf(begin_text, sizeof begin_text, "%lx-", reinterpret_cast<unsigned long>(start));
  const std::string all = read_text("/proc/self/smaps");
  size_t at = all.rfind(begin_text, 0) == 0 ? 0 : all.find(std::string("\n") + begin_text);
  if (at == std::string::npos) return {};
  if (at != 0) ++at;
  const size_t flags = all.find("VmFlags:", at);
  return all.substr(at, all.find('\n', flags) - at);
}

/// The first line of it (as in /proc/self/maps) and its VmFlags: what must not change. That is not the inode, which
/// the kernel numbers itself for memory objects; "sd" (soft dirty), "um" and "uw" (userfaultfd) are marks of whoever
/// watches the memory, and "ac" comes and goes with mprotect.
inline std::string mapping_of(const void* start) {
  std::string all = smaps_of(start);
  if (all.find("(deleted)") != std::string::npos) {
    size_t inode = 0;
    for (int i = 0; i < 4; ++i) inode = all.find(' ', inode) + 1;
    all.erase(inode, all.find('/', inode) - inode);
  }
  std::string flags = line_value(all, "VmFlags") + " ", kept;
  for (size_t at = 0; at + 3 <= flags.size(); at += 3) {
    const std::string flag = flags.substr(at, 2);
    if (flag != "sd" && flag != "um" && flag != "uw" && flag != "ac") kept += " " + flag;
  }
  return all.substr(0, all.find('\n')) + kept;
}

/// A content that tells one place from another.
inline uint64_t pattern(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ULL + index * 0xbf58476d1ce4e5b9ULL + 1;
  x ^= x >> 31;
  x *= 0x94d049bb133111ebULL;
  return x ^ x >> 29;
}

inline void fill(void* memory, size_t size, uint64_t seed) {
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = pattern(seed, i);
    memcpy(static_cast<char*>(memory) + i, &word, 8);
  }
}

inline void require_filled(const void* memory, size_t size, uint64_t seed, const char* what) {
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t word;
    memcpy(&word, static_cast<const char*>(memory) + i, 8);
    REQUIRE(word == pattern(seed, i), "%s: at offset %zu of %zu stands %016llx, not %016llx", what, i, size,
            static_cast<unsigned long long>(word), static_cast<unsigned long long>(pattern(seed, i)));
  }
}

inline void require_zero(const void* memory, size_t size, const char* what) {
  for (size_t i = 0; i < size; ++i)
    REQUIRE(static_cast<const char*>(memory)[i] == 0, "%s: offset %zu is not zero", what, i);
}

inline std::string filled_text(size_t size, uint64_t seed) {
  std::string text(size, '\0');
  fill(text.data(), size, seed);
  return text;
}

/// Creates DIR/name with `size` bytes of the pattern.
inline std::string make_file(const std::string& name, size_t size, uint64_t seed) {
  const std::string text = filled_text(size, seed), there = path(name);
  const int fd = must(open(there.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), there.c_str());
  REQUIRE(write(fd, text.data(), size) == static_cast<ssize_t>(size), "%s: cannot write it", there.c_str());
  close(fd);
  return there;
}

inline pid_t thread_id() { return static_cast<pid_t>(syscall(SYS_gettid)); }

/// Waits until thread `tid` sleeps in system call `number`.
inline void wait_in_syscall(pid_t tid, long number) {
  const std::string file = "/proc/self/task/" + std::to_string(tid) + "/syscall";
  const std::string begin_text = std::to_string(number) + " ";
  wait_until([&] { return read_text(file).rfind(begin_text, 0) == 0; }, "a thread is in its system call");
}

/// The same for a call that may have been restarted meanwhile: restart_syscall counts as well.
inline void wait_inside(pid_t tid, long number) {
  const std::string file = "/proc/self/task/" + std::to_string(tid) + "/syscall";
  wait_until([&] {
    const std::string text = read_text(file);  // "running", or the number first
    return text[0] >= '0' && text[0] <= '9' && (atol(text.c_str()) == number || atol(text.c_str()) == SYS_restart_syscall);
  }, "a thread is in its system call again");
}

}  // namespace selfcheck

using namespace selfcheck;
