// An image that is being copied in: the tree that the copier sees, and the decision when it is complete.
//
// filling -> (complete) -> finishing: verified, then imported or resumed -> over
//                                        |
// When it is over it is out of the tree for everybody but the processes that filled it: cp -a and tar still set the
// times and modes of directories after the last close, and bring files again that an attempt before them had brought, or
// files that no manifest lists. They find it for a few seconds more. What they bring then is compared with what has been
// resumed, and not kept.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "ckptfs/completion.h"
#include "ckptfs/late_file.h"
#include "ckptfs/node.h"
#include "engine/store/store.h"

namespace ckpt {

/// The content of one file, shared by its open handles.
struct StagedContent {
  std::mutex mutex;   ///< guards file
  std::shared_ptr<StagedFile> file;
  bool late = false;  ///< file is a LateFile; does not change
};

class StagedImage;

/// The directory that staged images stand in: what becomes of them. Calls come under no lock of the image.
class StagingOwner {
 public:
  virtual ~StagingOwner() = default;
  /// Does what the image was copied in for; it is complete, verified, and does not change any more. Returns the line
  /// for ctl; throws Error. Runs on a worker.
  virtual std::string complete(StagedImage& image, const Caller& caller, const CancelFlag& cancel) = 0;
  /// A file was refused; the image can still be put right.
  virtual void refused(StagedImage& image, const Request& request, const Error& error) = 0;
  /// The image has become something (`line`), or failed (`error` set). It leaves the tree.
  virtual void over(StagedImage& image, const Request& request, const std::string& line, const Error* error) = 0;
};

class StagedImage : public std::enable_shared_from_this<StagedImage> {
 public:
  enum class State { filling, finishing, over };

  /// `rights` are those of the creator, when it made the directory.
  StagedImage(std::unique_ptr<ImageBuilder> builder, std::string path, const Request& creator, Caller rights,
              mode_t mode, StagingOwner& owner);

  /// The node of the image's directory.
  NodePtr root();
  const std::string& path() const { return path_; }   ///< "restore/1234", for messages
  const Request& creator() const { return creator_; }
  /// What everybody who has filled it may do. Nobody else's rights count at its end, least of all those of whoever
  /// closes its last file: that may be a set-uid program to which a user has lent the descriptor.
  Caller rights() const;
  ImageBuilder& builder() { return *builder_; }
  State state() const;
  bool empty() const;
  /// Whether it took the place of `failed` and holds nothing but the reason.
  bool succeeds(const StagedImage& failed) const;

  /// Takes the place of one that has failed; the reason is kept as restore/NAME/error. Before others know of this one.
  void succeed(const StagedImage& failed, std::string sentence);
  std::optional<std::string> error() const;
  /// The error, or what is still missing.
  std::string condition() const;

  /// True where the process took part in the filling, the image is over, and it still looks for its files.
  bool lingers_for(const Request& request) const;
  bool lingers() const;

  // The calls of the nodes and handles (staged_node.cpp), those on names in staged_names.cpp. `ino` is an item's number.
  struct stat stat(Ino ino) const;
  void set_attributes(const Request&, Ino ino, const struct stat&, const AttributeChanges&);
  std::string read_link(Ino ino) const;
  NodePtr lookup(const Request&, Ino directory, const std::string& name);
  std::vector<DirEntry> list(Ino directory);
  std::pair<NodePtr, HandlePtr> create(const Request&, Ino directory, const std::string& name, mode_t, int flags);
  NodePtr make_directory(const Request&, Ino directory, const std::string& name, mode_t mode);
  std::pair<NodePtr, Work> make_link(const Request&, Ino directory, const std::string& name,
                                     const std::string& target);
  void remove(Ino directory, const std::string& name, bool is_directory);
  Work rename(const Request&, Ino directory, const std::string& name, Ino to_directory, const std::string& to);
  HandlePtr open(const Request&, Ino ino, int flags);
  /// A handle has changed the file's content; `size` is the new one.
  void content_changed(Ino ino, uint64_t size);
  /// A handle that changed the file is being closed.
  Work content_settled(const Request&, Ino ino);
  /// To be held while a file's content is changed: nothing but late content changes once the image is being verified.
  /// Error(EBUSY, EROFS) where it is.
  std::shared_lock<std::shared_mutex> begin_change(const StagedContent& content) const;
  /// Error(ESTALE) when the image is over: its pages are the resumed process's or the store's then.
  void check_may_read() const;

 private:
  struct Item {
    Ino parent = 0;   ///< 0 for the root and for what has been removed
    std::string name;
    mode_t mode = 0;  ///< with the type
    uid_t uid = 0;
    gid_t gid = 0;
    struct timespec atime {}, mtime {}, ctime {};
    std::map<std::string, Ino> children;
    std::string target;
    std::shared_ptr<StagedContent> content;
    uint64_t size = 0;
    bool settled = false;   ///< closed since its last change; a RELEASE would come too late to tell
  };

  // All of these with mutex_ held.
  Item& item(Ino ino);
  const Item& item(Ino ino) const;
  std::string path_locked(const Item&) const;
  Ino add(Ino directory, const std::string& name, mode_t mode, const Request&);
  void detach(Ino ino);
  void check_filling() const;
  /// False while the image is filled, true where it has become what it was copied for. Error(EBUSY, EROFS) else.
  bool is_late() const;
  std::shared_ptr<StagedContent> new_content(const Item&);
  /// Error(ESTALE) where the late file is not what was resumed.
  void check_late(const Item&) const;
  /// The same as a Work, which is empty where it is.
  Work late_settled(const Request&, const Item&);
  Work refusal(const Request&, const Error&);
  void took_part(const Request&);   ///< Error(EPERM) for another user
  void settle_below(Ino ino);
  void unsettle(const std::string& path);
  void forget_refusal();
  Work settled(const Request&, const std::string& path);
  void read_manifest();
  Work begin_finish(const Request&);

  void finish(const Request&, const CancelFlag&);
  void refuse(const Request&, const Error&);
  NodePtr node(Ino ino);

  static constexpr std::chrono::seconds kLinger{3};
  /// Reading somebody's rights from /proc costs more than making a file, and cp makes many in a row.
  static constexpr std::chrono::milliseconds kRightsLast{10};

  /// Whose rights were looked at last, and when.
  struct Filler {
    Request request;
    std::chrono::steady_clock::time_point seen;
    bool is(const Request& r) const {
      return r.tid != 0 && request.tid == r.tid && request.uid == r.uid && request.gid == r.gid;
    }
  };

  const std::unique_ptr<ImageBuilder> builder_;
  const std::string path_;
  const Request creator_;
  StagingOwner& owner_;
  const Ino root_ino_;
  Ino predecessor_ = 0;   ///< root of the one whose place it took

  // Lock order: changing_, mutex_, StagedContent::mutex, the builder's.
  mutable std::shared_mutex changing_;   ///< shared by writers of content
  mutable std::mutex mutex_;             ///< guards all below
  State state_ = State::filling;
  bool succeeded_ = false;   ///< with State::over
  std::unordered_map<Ino, Item> items_;
  Completion completion_;
  Caller rights_;
  std::set<pid_t> participants_;
  Filler last_filler_;
  std::optional<std::string> error_;
  std::string refused_;   ///< the file at whose close error_ was found; empty where it is of an attempt before
  mutable std::chrono::steady_clock::time_point last_use_;
};

}  // namespace ckpt
