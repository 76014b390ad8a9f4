// A directory that images are copied into by making a directory: what images/ (import) and restore/ (resume) share.
#pragma once

#include <deque>
#include <map>
#include <mutex>

#include "ckptfs/command_log.h"
#include "ckptfs/staged_image.h"
#include "engine/store/store.h"

namespace ckpt {

class StagingArea : public Node, public StagingOwner {
 public:
  /// `where` is the directory's name, for messages.
  /// `forget_name` tells the kernel that a name in here stands for something else from now on; it may wait for calls
  /// on this directory that are under way, so it is called with no lock held, and from workers only.
  using ForgetName = std::function<void(Ino directory, const std::string& name)>;
  StagingArea(Ino ino, std::string where, Store& store, CommandLog& log);
  void on_change_of_name(ForgetName forget_name) { forget_name_ = std::move(forget_name); }

  double attribute_timeout() const override { return 1; }
  double entry_timeout() const override { return kForever; }

  void refused(StagedImage& image, const Request& request, const Error& error) override;
  void over(StagedImage& image, const Request& request, const std::string& line, const Error* error) override;

 protected:
  /// The image that is being copied in under this name, or, for who filled it, the one that has just ended.
  std::shared_ptr<StagedImage> find(const Request&, const std::string& name);
  std::shared_ptr<StagedImage> find_current(const std::string& name) const;
  /// Error(EEXIST) where the name is taken.
  std::shared_ptr<StagedImage> begin(const Request&, const std::string& name, mode_t mode);
  /// rmdir: ENOTEMPTY where files are left. False where there is no such image.
  bool remove(const Request&, const std::string& name);
  /// False where there is no such image.
  bool rename_staged(const std::string& name, const std::string& to);
  std::vector<DirEntry> staged(const Request&, bool of_all_users) const;
  size_t staged_count() const;
  /// The name under which the image stands here now.
  std::string name_of(const StagedImage& image) const;

  /// Called with the image's end, before its name is free again; restore/ leaves the reason there.
  virtual std::shared_ptr<StagedImage> successor(StagedImage&, const Error*) { return nullptr; }

  std::shared_ptr<StagedImage> make(const Request&, Caller rights, const std::string& name, mode_t mode);

  const std::string where_;
  Store& store_;
  CommandLog& log_;
  const struct timespec started_ = now();
  ForgetName forget_name_;

 private:
  static constexpr size_t kMaxEnded = 16;

  struct Ended {
    std::string name;
    std::shared_ptr<StagedImage> image;
  };
  mutable std::mutex mutex_;   ///< guards all below; a StagedImage's lock comes after it
  std::map<std::string, std::shared_ptr<StagedImage>> current_;
  std::deque<Ended> ended_;
};

}  // namespace ckpt
