// A ckptfs mounted for one test, over a store of its own.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace ckpt_test {

/// Asks `condition` every few milliseconds until it holds; false when `limit` has passed, or CKPTFS_TEST_PATIENCE times as
/// much.
bool wait_until(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = std::chrono::seconds(60));

bool exists(const std::string& path);
std::string read_file(const std::string& path);          ///< empty if it cannot be read
void write_file(const std::string& path, const std::string& text);

/// A directory below $TMPDIR or /tmp that everybody may pass through, removed with everything in it at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// What a command came to: its exit status, and what it printed to stdout and stderr.
struct CommandResult {
  int status = -1;
  std::string output;
};
/// Runs a program (looked up in PATH) with stdin from /dev/null, and waits for its end.
CommandResult run(const std::vector<std::string>& arguments);

/// Outcome of a command written to ctl.
struct Outcome {
  int error = 0;               ///< errno of the write, 0 for success
  std::string sentence;        ///< what stands in ctl about it
};

class Mount {
 public:
  /// Mounts. `options` go to -o. After a failure, mounted() is false and log() tells why.
  explicit Mount(const std::string& options = {});
  /// Unmounts, ends the daemon, and, in a test that failed, shows its log.
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  bool mounted() const { return pid_ > 0; }
  const std::string& path() const { return mountpoint_; }
  std::string path(const std::string& below) const { return mountpoint_ + "/" + below; }
  const std::string& scratch() const { return directory_.path(); }  ///< a directory outside the mount
  pid_t daemon() const { return pid_; }
  std::string log() const;

  /// Writes one line to ctl in one write, as echo does, and reads the outcome through the same descriptor.
  Outcome command(const std::string& line) const;
  /// The outcome of a command that did not fit above: raw bytes.
  Outcome write_ctl(const std::string& bytes) const;

  /// SIGKILL, as a crash would be; the mountpoint is cleaned up.
  void crash();
  /// Mounts again over the same store; false after a failure.
  bool start();
  /// Orderly end: unmounts and waits for the daemon. Its exit status, -1 if it had to be killed.
  int stop();

 private:
  void clean_mountpoint();

  TemporaryDirectory directory_;
  std::string mountpoint_, options_;
  pid_t pid_ = -1;
};

}  // namespace ckpt_test
