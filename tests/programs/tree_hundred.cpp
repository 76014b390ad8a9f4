// A hundred processes: the first has nine children of ten each, or as many as are asked for, who all write into one pipe and
// count in one file.
#include <algorithm>
#include <vector>

#include "family.h"

namespace {

void count_and_tell(int file, int pipe, char who) {
  // One description for all: each appends its letter where the last one has ended.
  REQUIRE(write(file, &who, 1) == 1, "the file: %s", strerror(errno));
  REQUIRE(write(pipe, &who, 1) == 1, "the pipe: %s", strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int each = argc > 2 ? atoi(argv[2]) : 10, others = 9 * (each + 1);
  Roll roll;
  const int file = must(open(path("letters").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600), "open");
  int ends[2];
  must(pipe2(ends, O_CLOEXEC), "pipe2");
  std::vector<pid_t> children;
  for (char c = 'a'; c < 'j'; ++c) {
    children.push_back(child([&, c] {
      close(ends[0]);
      std::vector<pid_t> own;
      for (int i = 0; i < each; ++i) {
        own.push_back(child([&, c, i] {
          std::vector<char> memory(64 << 10);
          fill(memory.data(), memory.size(), static_cast<uint64_t>(c * each + i));
          roll.here();
          wait_in_place("one of a hundred");
          require_filled(memory.data(), memory.size(), static_cast<uint64_t>(c * each + i), "memory");
          count_and_tell(file, ends[1], c);
        }));
      }
      roll.here();
      wait_in_place("one of nine");
      for (const pid_t pid : own) join(pid);
      count_and_tell(file, ends[1], c);
    }));
  }
  roll.wait_for(others);
  close(ends[1]);
  ready();
  wait_in_place("the first");
  for (const pid_t pid : children) join(pid);
  std::string told(static_cast<size_t>(2 * others), '\0');
  told.resize(static_cast<size_t>(must(read(ends[0], told.data(), told.size()), "read")));
  const std::string counted = read_text(path("letters"));
  for (const std::string& text : {told, counted}) {
    REQUIRE(text.size() == static_cast<size_t>(others), "%zu letters, not %d", text.size(), others);
    for (char c = 'a'; c < 'j'; ++c) {
      const auto n = std::count(text.begin(), text.end(), c);
      REQUIRE(n == each + 1, "the letter %c stands there %ld times, not %d", c, n, each + 1);
    }
  }
  char c;
  REQUIRE(read(ends[0], &c, 1) == 0, "the pipe has another writer");
  return passed();
}
