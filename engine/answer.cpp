#include "engine/answer.h"

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "libckpt/answer.h"
#include "libckpt/ckpt.h"

namespace ckpt {

AnswerSlot::AnswerSlot(const Caller& caller, pid_t pid, uint64_t address) : address_(address), memory_(pid, true) {
  // In this order: /proc/PID/mem is of the program that runs now, and an exec before it shows in the rights.
  check_may_checkpoint(caller, pid);
  if (!pending()) {
    given_ = true;
    fail(EINVAL, "{}: no request for a checkpoint is pending at {:#x}", pid, address);
  }
}

AnswerSlot::~AnswerSlot() { give(-EINTR); }

bool AnswerSlot::pending() const noexcept {
  int64_t word = 0;
  return memory_.try_read(address_, std::as_writable_bytes(std::span(&word, 1))) == 0 && word == CKPT_PENDING;
}

void AnswerSlot::give(int64_t answer) noexcept {
  if (given_) return;
  given_ = true;
  try {
    if (pending()) memory_.write(address_, std::as_bytes(std::span(&answer, 1)));
  } catch (const Error&) {
    // It has ended, or has unmapped the word: nobody waits.
  }
}

void capture_answer(ImageSink& image, const std::string& prefix, uint64_t address) {
  Record out;
  out.add_hex("answer", address);
  image.put(prefix + "request", out.text());
}

void restore_answer(const ImageSource& image, const std::string& prefix, Remote& leader, int flags) {
  const std::string path = prefix + "request";
  if (!image.has(path)) return;
  const uint64_t address = Record::parse(image.read(path), path).get_u64("answer");
  try {
    if (leader.get<int64_t>(RemotePtr{address}) == CKPT_PENDING) {
      const int64_t answer = flags | CKPT_RETURN;
      leader.write(RemotePtr{address}, std::as_bytes(std::span(&answer, 1)));
      return;
    }
  } catch (const Error& e) {
    if (e.err() == ESRCH) throw;
  }
  fail(EINVAL, "{}: no request for a checkpoint is pending at {:#x}", path, address);
}

}  // namespace ckpt
