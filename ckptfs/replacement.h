// `restore NAME replace`: going back to an image while the processes it was taken of run.
#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "ckptfs/catalog.h"
#include "ckptfs/command.h"
#include "engine/engine.h"

namespace ckpt {

class LazyFill;

/// One replacement. Not thread-safe.
///
/// Whatever can be known of the image without its pids is known, and good, before the running processes are touched. Then
/// they are stopped, stored as an image of their own, and ended. Where the old image cannot be resumed even so, they are
/// resumed from that.
class Replacement {
 public:
  using Take = std::function<CheckpointResult(const CheckpointCommand&, const Caller&, const CancelFlag*)>;

  Replacement(Catalog& catalog, Take take) : catalog_(catalog), take_(std::move(take)) {}

  /// Resumes `image`, and ends who has its pids. The errors are those of resume() and checkpoint(): the sentence tells what has
  /// become of the running ones where it was not nothing. EEXIST: a pid is used by a process outside of the tree of
  /// the image's root, or that of the root by another program. EBUSY: nobody would wait for the end of the root, so that its pid would stay in use.
  ResumeResult run(const StoredImage& image, const Caller& caller, const ResumeOptions& options, LazyFill* lazy);
  /// Name of the image that was taken of the processes that ran; empty where none did.
  const std::string& replaced() const { return replaced_; }

 private:
  void make_room(const StoredImage& image, std::span<const pid_t> pids, const Caller& caller, const CancelFlag* cancel);
  [[noreturn]] void go_back(const std::exception& why, const StoredImage& image, const Caller& caller,
                            const CancelFlag* cancel);
  /// The peers of the ended connections are those of the resumed ones.
  void end_hold() const noexcept;

  Catalog& catalog_;
  const Take take_;
  std::string replaced_;
};

}  // namespace ckpt
