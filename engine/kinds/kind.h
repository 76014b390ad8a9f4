// A room: one kind of thing that is checkpointed, with capture, image format and restore side by side.
// A new kind is one pair of files in this folder and one line in kinds.cpp; nothing else changes.
//
// Files and paths in the image are written below ctx.prefix ("" for the root process, "children/PID/" for others);
// objects that several descriptors or processes share are written once below "objects/".
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/base/refusals.h"
#include "engine/caller.h"
#include "engine/image/image.h"
#include "engine/process/remote.h"
#include "engine/process/traces.h"

namespace ckpt {

// ---- capture ----------------------------------------------------------------------------------------------------

struct OpenFd;
class PtyIndex;
struct QueuedDescriptors;
struct TcpConnection;
struct UnixDiag;

/// All that the processes of one checkpoint have open.
struct TreeDescriptors {
  std::set<pid_t> pids;          ///< the processes, zombies too
  pid_t root = 0;                ///< the first that was added
  std::vector<const std::vector<OpenFd>*> tables;
  std::multimap<std::pair<dev_t, ino_t>, const OpenFd*> by_inode;
  // Found out when somebody asks the first time (CaptureContext).
  mutable std::shared_ptr<const std::map<ino_t, UnixDiag>> unix_sockets;
  mutable std::optional<bool> may_hold_more;
  mutable std::shared_ptr<const PtyIndex> ptys;
  mutable std::shared_ptr<const std::map<ino_t, TcpConnection>> tcp_connections;

  /// The tables must outlive this and stay as they are. Those of several processes have `shares` across them filled in
  /// (find_shared_descriptions).
  void add(pid_t pid, const std::vector<OpenFd>& fds);
};

/// What a room may use while the process is stopped.
struct CaptureContext {
  pid_t pid = 0;
  int proc_dir = -1;             ///< open directory /proc/PID
  int pid_fd = -1;
  std::string prefix;            ///< of this process in the image
  std::string status;            ///< text of /proc/PID/status as of the stop
  std::string root;              ///< its root directory as the link in /proc says; empty where nobody has asked yet
  ImageSink* image = nullptr;
  Remote* leader = nullptr;      ///< system calls in the main thread
  /// Objects already written for the whole image, by kind and identity ("pipe:123456"), so that each is written once.
  std::map<std::string, std::string>* objects = nullptr;
  /// Work for after the process goes on (copying a large deleted file from our own descriptor, say).
  std::vector<std::function<void()>>* later = nullptr;
  /// Content held in memory by the closures of `later`, bytes; null where nothing may be held.
  uint64_t* later_bytes = nullptr;
  bool memory = true;            ///< false: no content of memory is wanted, only what describes it
  /// Addresses of words that the kernel writes when a thread ends (Snapshot::spare); null where nobody asks.
  std::vector<uint64_t>* exit_words = nullptr;
  /// The whole table, set by capture_descriptors() and refuse_descriptors() for the kinds.
  const std::vector<OpenFd>* fds = nullptr;
  /// Those of all processes of the checkpoint; set with `fds` where it was null, to this process alone.
  const TreeDescriptors* tree = nullptr;
  /// Descriptors under way in unix sockets (unix_queue.h), of the whole checkpoint; set by capture_descriptors() where it is
  /// null, which it is before the stop.
  std::shared_ptr<const QueuedDescriptors> queued;
  /// CKPT_NO_SOCKETS: a socket whose other end is outside the image is captured as if that end were closed.
  bool no_sockets = false;
  /// The rule that drops what the peers of TCP connections send until the resume (peer_hold.h); empty for none.
  std::string peer_hold;
  /// CKPT_NO_PGRP_TTYS: a terminal outside the image is captured as hung up.
  bool no_pgrp_ttys = false;
  /// Where what cannot be checkpointed is noted, so that the rest is looked at too; null: it is thrown.
  Refusals* refusals = nullptr;

  /// Runs a step of the capture, whose refusal it notes or throws.
  template <typename F>
  void step(F&& work) const {
    if (refusals == nullptr) {
      work();
    } else {
      refusals->collect(work);
    }
  }
  /// Every descriptor of the checkpoint that leads to this inode, those under way in its sockets as well:
  /// whether all ends of something are in the image.
  std::vector<const OpenFd*> holders(dev_t dev, ino_t inode) const;
  /// Whether there is one.
  bool holds(dev_t dev, ino_t inode) const { return !holders(dev, inode).empty(); }
  /// Before the stop: whether a descriptor that holders() does not name could be under way in a socket.
  bool may_hold_more() const;
  /// The unix socket as the kernel's socket monitor tells of it, read once for the whole table; null for none.
  const UnixDiag* unix_socket(ino_t inode) const;
  const std::map<ino_t, UnixDiag>& unix_sockets() const;
  /// A duplicate of the process's descriptor, sharing its file description (pidfd_getfd). Throws Error.
  UniqueFd take(int fd) const;
  /// True the first time an object is met: the caller writes it then, to objects/NAME.
  bool first(const std::string& object) const { return objects->emplace(object, object).second; }
  /// Whether a process, or a thread's, is part of the checkpoint.
  bool has_process(pid_t other) const { return other == pid || (tree != nullptr && tree->pids.contains(other)); }
  bool has_thread(pid_t tid) const;
  /// The same of any process of the checkpoint.
  UniqueFd take(const OpenFd& fd) const;
};

/// One open descriptor, as /proc tells of it.
struct OpenFd {
  pid_t pid = 0;                 ///< whose it is
  int fd = -1;
  std::string target;            ///< link text of /proc/PID/fd/N: a path, "pipe:[123]", "anon_inode:[eventfd]"
  std::string fdinfo;            ///< text of /proc/PID/fdinfo/N
  struct stat st = {};           ///< of the file behind it
  uint64_t pos = 0;
  uint32_t flags = 0;            ///< as open(2), O_CLOEXEC included
  int mnt_id = 0;
  std::string fs_type;           ///< of its mount ("proc", "tmpfs"); empty on a block device and for no mount
  /// A descriptor with the same file description, -1 for none: a lower one, or one of another process of the checkpoint.
  int shares = -1;
  pid_t shares_pid = 0;          ///< that other process, 0 for this one
  /// Value of a "name:\tvalue" line of fdinfo.
  std::optional<std::string> info(std::string_view name) const;
  /// Values of all lines of fdinfo that begin with "name:" or "name " (epoll's tfd, inotify, ...).
  std::vector<std::string> info_lines(std::string_view name) const;
};

// ---- restore ----------------------------------------------------------------------------------------------------

struct RestoredFds;

/// What a room may use to make things again. Files are opened by the engine's own thread, which has taken the caller's
/// filesystem credentials, then handed to the stub; nothing is opened with more rights than the caller has. For a
/// plain caller the thread's effective capabilities must be empty as well: what a file shows may depend on those of its
/// opener (/proc/kallsyms), which setfsuid(2) does not take away.
struct RestoreContext {
  const ImageSource* image = nullptr;
  std::string prefix;
  Caller caller;
  pid_t pid = 0;                 ///< the pid to be
  int root_fd = -1;              ///< the process's root directory; paths of the image are below it
  /// Objects made so far, by name: made once, shared by every descriptor that names them. Owned here.
  std::map<std::string, UniqueFd>* objects = nullptr;
  /// The descriptors of the image's processes, those first whose records come first; null for one alone.
  std::map<pid_t, RestoredFds>* tables = nullptr;
  /// All processes of the image, zombies too, and the root process; null and 0 where this is the only one.
  const std::set<pid_t>* pids = nullptr;
  pid_t root = 0;
  /// Puts a duplicate of a local descriptor into the process, at a high number that the image does not use, and
  /// returns this number; who asked closes it there again (Remote::call close).
  std::function<int(int local_fd)> give;
  /// Set for complete() and finish() only: system calls of the main thread of the process that is being made.
  Remote* leader = nullptr;
  /// Set for complete() only: our own descriptor of the file of fds/N of a process, -1 where the image has no such file.
  std::function<int(pid_t pid, int fd)> file_of;
  /// What must live until the processes run, and not longer (an attachment that keeps a segment of shared memory).
  std::vector<std::shared_ptr<void>>* kept = nullptr;
  /// What would stay in the system of a failed resume (a socket's name); null where nobody asks.
  Traces* traces = nullptr;
  /// What sets going what others see, run when nothing else is likely to fail, just before the processes run.
  std::vector<std::function<void()>>* last = nullptr;

  bool has_process(pid_t other) const { return other == pid || (pids != nullptr && pids->contains(other)); }
  /// Whether the image has a thread of this id, in any of its processes.
  bool has_thread(pid_t tid) const;
  /// Puts a duplicate of a local descriptor at number `fd` of the process (complete() and finish() only).
  void place(int local, int fd, bool cloexec, Remote& process) const;
  /// Where the files of a process of the image are.
  std::string prefix_of(pid_t other) const;
};

/// A kind of file descriptor. Stateless; one instance for ever.
class DescriptorKind {
 public:
  virtual ~DescriptorKind() = default;
  /// The value of `type` in fds/N.
  virtual const char* name() const = 0;
  /// Whether this kind is responsible. Kinds are asked in the order of the table, the first match wins.
  virtual bool matches(const OpenFd& fd) const = 0;
  /// Why this descriptor cannot be checkpointed ("an io_uring instance cannot be checkpointed"), or nothing.
  /// Called before the process is stopped, so that a refusal disturbs nobody, and again in the stop for what was
  /// opened meanwhile. Of the context only pid, proc_dir, pid_fd and fds are there.
  virtual std::optional<std::string> refuse(const CaptureContext&, const OpenFd&) const { return std::nullopt; }
  /// Adds this kind's fields to the record of fds/N (type, pos, flags and shares are there already), and whatever
  /// content belongs to it to the image.
  virtual void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const = 0;
  /// Makes the file description again: right object, flags, position. Throws Error without side effects on others.
  virtual UniqueFd restore(const RestoreContext& ctx, const Record& record) const = 0;
  /// True where the description can only be made when the process is there, by its own system calls, but outside its
  /// descriptor table: restore() checks the record and returns a placeholder, complete() makes the real one.
  virtual bool completed_later() const { return false; }
  virtual UniqueFd complete(const RestoreContext&, const Record&) const { return {}; }
  /// Whether restore() and complete() make everything that it is, so that it may also be under way in a unix socket.
  virtual bool may_be_queued() const { return true; }
  /// True where the description can only be made inside the process (it refers to the process): restore() returns a
  /// placeholder, and finish() puts the real one at `fd` with dup3.
  virtual bool made_in_process() const { return false; }
  /// What can only be done when every descriptor stands at its number in the new process (epoll targets, owner,
  /// POSIX locks): run with system calls of its main thread.
  virtual void finish(const RestoreContext&, const Record&, int /*fd*/, Remote&) const {}
  /// Whether fcntl(F_SETOWN, F_SETSIG, O_ASYNC) means anything for it.
  virtual bool has_owner() const { return false; }
};

/// What restore() returns for a kind that is made in the process. `where` for messages.
UniqueFd placeholder(const std::string& where);

/// Every kind, in the order they are asked. The last one matches everything and refuses it by name.
const std::vector<const DescriptorKind*>& descriptor_kinds();
const DescriptorKind& kind_of(const OpenFd& fd);
/// Throws Error(EOPNOTSUPP) for a `type` that this version does not know.
const DescriptorKind& kind_named(std::string_view type, const std::string& where);

/// Reads the whole descriptor table of a process, in ascending order, `shares` filled in by kcmp(2).
std::vector<OpenFd> read_fd_table(pid_t pid, int proc_dir);
/// One descriptor of our own.
OpenFd read_own_fd(int fd);
/// kcmp(2): whether a descriptor of one process and one of another are the same file description.
bool same_description(pid_t pid, int fd, pid_t other, int other_fd);

/// Fills in `shares` of all tables anew: the first table that has a description owns it. Takes a comparison for each
/// descriptor and each doubling of the number of descriptions that could be the same.
void find_shared_descriptions(std::span<std::vector<OpenFd>* const> tables);

/// All of fds/: refusals (before the stop), capture (during it). `tree` as in CaptureContext.
void refuse_descriptors(pid_t pid, const std::vector<OpenFd>& fds, Refusals& refusals, bool no_sockets = false,
                        const TreeDescriptors* tree = nullptr);
void capture_descriptors(const CaptureContext& ctx, const std::vector<OpenFd>& fds);

/// A descriptor ready to be put into the process.
struct RestoredFd {
  int fd = -1;                   ///< number in the process
  bool cloexec = false;
  int file = -1;                 ///< index into RestoredFds::files
  bool inherited = false;        ///< it, or what it shares, came from `inherit`: finish_descriptors leaves it alone
  bool shared = false;           ///< a lower descriptor, or one of another process, has the same file description
  int shares = -1;               ///< as in OpenFd, where it is of another process
  pid_t shares_pid = 0;
  bool made_in_process = false;  ///< its file, or that of whom it shares, is a placeholder until finish_descriptors()
  Record record;
};
struct RestoredFds {
  std::vector<UniqueFd> files;   ///< one a file description
  std::vector<RestoredFd> fds;   ///< ascending
  std::set<int> complete;        ///< those of files that have been completed later
  const RestoredFd* find(int fd) const;
};
/// Parses fds/ and makes every file description in this process. `inherit` maps numbers to descriptors to use instead.
RestoredFds restore_descriptors(const RestoreContext& ctx, const std::vector<std::pair<int, int>>& inherit);
/// Makes those that are completed_later(), with the calls of a process that has none of the descriptors yet.
void complete_descriptors(const RestoreContext& ctx, RestoredFds& fds, Remote& leader);
/// Takes the descriptions that other processes have made, when those of all are complete.
void adopt_descriptors(const RestoreContext& ctx, RestoredFds& fds);
/// Second half, when every descriptor stands at its number, every mapping is made, and the descriptors that served to
/// make them are closed (closing any descriptor of a file drops the process's POSIX locks on it): finish() of every
/// kind, POSIX locks, signal owners. Touches nothing but the process that `leader` belongs to.
void finish_descriptors(const RestoreContext& ctx, const RestoredFds& fds, Remote& leader);

}  // namespace ckpt
