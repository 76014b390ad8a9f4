// The answer to a process that has asked for its own checkpoint: a word in its memory (libckpt/answer.h), since it can
// neither wait for its own stop in a system call nor find out by itself that it has been resumed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "engine/caller.h"
#include "engine/image/image.h"
#include "engine/memory/remote_memory.h"
#include "engine/process/remote.h"

namespace ckpt {

/// The word of one request. Answers once; a request that is dropped is answered EINTR by the destructor.
class AnswerSlot {
 public:
  /// Throws Error: EPERM (the caller may not checkpoint the process), EINVAL (no request is pending at that address),
  /// ESRCH. It stays with the program that the process runs now: after an exec nothing is written any more.
  AnswerSlot(const Caller& caller, pid_t pid, uint64_t address);
  ~AnswerSlot();
  AnswerSlot(const AnswerSlot&) = delete;
  AnswerSlot& operator=(const AnswerSlot&) = delete;

  uint64_t address() const { return address_; }
  /// Flags (CKPT_), or a negative errno. Does nothing where the process has ended.
  void give(int64_t answer) noexcept;

 private:
  bool pending() const noexcept;

  const uint64_t address_;
  RemoteMemory memory_;
  bool given_ = false;
};

/// Writes down in the image that its process waits for an answer.
void capture_answer(ImageSink& image, const std::string& prefix, uint64_t address);
/// Tells the process, all memory of which is in place, that it has been resumed, with these flags besides CKPT_RETURN.
/// Does nothing for an image that was not asked for by its own process. Throws Error(EINVAL) for a hostile address.
void restore_answer(const ImageSource& image, const std::string& prefix, Remote& leader, int flags);

}  // namespace ckpt
