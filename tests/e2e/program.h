// A program that a test checkpoints: started the way a daemon starts, so that it depends on nothing of the test.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "mount.h"

namespace ckpt_test {

class Program {
 public:
  /// Starts it as an orphan with its standard streams on /dev/null, or on files of `directory` named stdin, stdout,
  /// stderr where `streams` is true, in the root directory (or in `directory` with `streams`), in a session of its
  /// own. The test process becomes a subreaper, so that it can reap it under whatever parent it had.
  Program(const std::vector<std::string>& arguments, const std::string& directory, bool streams = false);
  /// Kills it, with its process group and its descendants.
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  /// SIGKILL to it and its descendants, and waits until their pids are free again.
  void kill_and_reap();
  /// Until the pid is free; false after `limit`.
  bool wait_end(std::chrono::milliseconds limit = std::chrono::seconds(30));
  bool running() const;        ///< there is a process, and it is not a zombie
  /// The state letter of /proc/PID/stat, 0 if there is no process.
  char state() const;
  /// Becomes the owner of a resumed process of the same pid.
  void resumed() { ended_ = false; }

 private:
  pid_t pid_ = -1;
  bool ended_ = false;
  std::string directory_;
};

/// A self-checking program (tests/programs/selfcheck.h).
class CheckProgram : public Program {
 public:
  CheckProgram(const std::string& name, const std::string& directory, const std::vector<std::string>& arguments = {});
  /// Fails the test when it does not get ready.
  bool wait_ready();
  /// Runs DIR/between if the program left one.
  void between();
  void go();
  /// The result, or what happened instead.
  std::string wait_result();
};

/// cp -a of an image out of the mount, as a user would do; fails the test on an error.
bool archive(const Mount& mount, const std::string& image, const std::string& to);
/// cp -a of an archive into restore/; the message of cp and the sentence of ctl on a failure, else empty.
std::string resume(const Mount& mount, const std::string& archive);
/// The program's image, named by its pid, goes out to `scratch`, the program is killed and comes back from there; fails the
/// test where that does not work.
void move_through_archive(const Mount& mount, Program& program, const std::string& scratch);

}  // namespace ckpt_test
