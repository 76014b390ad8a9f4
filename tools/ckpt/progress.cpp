#include "tools/ckpt/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tools/ckpt/text.h"

namespace ckpt::tool {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// The label is cut so that all fits into a line of the terminal: what goes into a second one could not be erased.
void rewrite_line(std::string label, const std::string& state) {
  winsize window{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > state.size()) {
    label.resize(std::min(label.size(), window.ws_col - state.size() - 1));
  }
  // CSI K: erase to the end of the line (console_codes(4)).
  std::fprintf(stderr, "\r%s%s\033[K", label.c_str(), state.c_str());
  std::fflush(stderr);
}

}  // namespace

ProgressLine::ProgressLine(std::string label)
    : label_(std::move(label)),
      terminal_(::isatty(STDERR_FILENO)),
      next_(steady_clock::now() + milliseconds(500)) {}

ProgressLine::~ProgressLine() {
  if (shown_) rewrite_line("", "");
}

void ProgressLine::update(uint64_t done, uint64_t total) {
  if (!terminal_ || steady_clock::now() < next_) return;
  next_ = steady_clock::now() + milliseconds(100);
  shown_ = true;
  const uint64_t percent =
      total ? static_cast<uint64_t>(100.0 * static_cast<double>(done) / static_cast<double>(total)) : 0;
  rewrite_line(label_, ": " + human_bytes(done) + " of " + human_bytes(total) + ", " +
               std::to_string(percent) + "%");
}

Progress ProgressLine::callback() {
  return [this](uint64_t done, uint64_t total) {
    update(done, total);
    return true;
  };
}

Waiting::Waiting(std::string label) {
  if (::isatty(STDERR_FILENO)) thread_ = std::thread([this, l = std::move(label)] { run(l); });
}

Waiting::~Waiting() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Waiting::run(const std::string& label) {
  std::unique_lock lock(mutex_);
  int seconds = 0;
  while (!changed_.wait_for(lock, std::chrono::seconds(1), [this] { return done_; })) {
    rewrite_line(label, ": " + std::to_string(++seconds) + " s");
  }
  if (seconds > 0) rewrite_line("", "");
}

}  // namespace ckpt::tool
