// A program to try a checkpoint on: two threads that count, one into a file, one in memory. It keeps what it
// counts in memory only, so that a program that began anew would be seen to: the file goes on by one a line,
// or it does not.
//
//   ckpt-sample FILE [LIMIT]     writes "N M" lines, N counting up by one; ends at LIMIT, or never
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <thread>

namespace {

constexpr auto kBeat = std::chrono::milliseconds(100);

/// A number that one thread raises and the other one waits for.
class Beat {
 public:
  void raise() {
    const std::lock_guard lock(mutex_);
    ++count_;
    raised_.notify_one();
  }
  unsigned long wait_for_more_than(unsigned long seen) {
    std::unique_lock lock(mutex_);
    raised_.wait(lock, [&] { return count_ > seen; });
    return count_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable raised_;
  unsigned long count_ = 0;
};

[[noreturn]] void beat_for_ever(Beat& beat) {
  for (;;) {
    std::this_thread::sleep_for(kBeat);
    beat.raise();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool help = argc > 1 && std::string_view(argv[1]) == "--help";
  if (argc < 2 || argc > 3 || argv[1][0] == '-') {
    std::fprintf(help ? stdout : stderr, "usage: ckpt-sample FILE [LIMIT]\n");
    return help ? 0 : 2;
  }
  const unsigned long limit = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0;
  std::FILE* out = std::fopen(argv[1], "a");  // a program that goes back in time writes on at the end
  if (!out) {
    std::perror(argv[1]);
    return 1;
  }
  Beat beat;
  std::thread(beat_for_ever, std::ref(beat)).detach();
  unsigned long seen = 0;
  for (unsigned long line = 1; limit == 0 || line <= limit; ++line) {
    seen = beat.wait_for_more_than(seen);
    std::fprintf(out, "%lu %lu\n", line, seen);
    if (std::fflush(out) != 0) {
      std::perror(argv[1]);
      return 1;
    }
  }
  return std::fclose(out) == 0 ? 0 : 1;
}
