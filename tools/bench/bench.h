// What the measurements of ckpt-bench share: where they work, and the table they fill.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ckpt::bench {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kGiB = 1 << 30;

/// A ckptfs of our own on a fresh directory and store; gone, with its files, at the end.
class Mount {
 public:
  /// `base` is an empty directory on the disk to measure. Throws Error where ckptfs does not come up.
  Mount(std::string program, std::string base);
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  ~Mount();

  std::string path(const std::string& name) const { return base_ + "/mnt/" + name; }
  /// Writes one command to ctl. Throws Error with the sentence of a failure.
  void ctl(const std::string& command) const;
  /// A line of stats.
  uint64_t stat(const std::string& name) const;
  /// Peak resident memory of the daemon, in bytes.
  uint64_t peak_memory() const;

 private:
  void start();
  void stop();
  std::string program_, base_;
  pid_t daemon_ = -1;
};

struct Row {
  std::string what;
  std::string measured;
  std::string floor;  ///< what it is compared with, measured in the same run
  std::string ratio;
  std::string goal;
};

struct Context {
  Mount& mount;
  std::string dir;     ///< for plain files, on the store's filesystem
  bool quick = false;  ///< smaller sizes, one round
  bool large = false;  ///< 4 GiB where 1 GiB is the rule, too
  std::vector<Row>& table;
  uint64_t size() const { return quick ? 64 * kMiB : kGiB; }
  int rounds() const { return quick ? 1 : 3; }
};

/// A measurement: its name for --only, and what it does.
struct Case {
  std::string name;
  std::function<void(Context&)> run;
};
std::vector<Case> checkpoint_cases();
std::vector<Case> incremental_cases();
std::vector<Case> restore_cases();
std::vector<Case> file_cases();
std::vector<Case> store_cases();
std::vector<Case> tree_cases();

/// Seconds that `work` takes.
template <typename Work>
double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double> values);

/// Runs a program and waits. Throws Error unless it ends with 0.
void run(const std::vector<std::string>& command);

std::string show_ms(double seconds);
std::string show_size(uint64_t bytes);

}  // namespace ckpt::bench
