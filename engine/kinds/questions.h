// What only a thread itself can ask the kernel, asked in one go for all rooms:
//
//   constexpr Question kTimer{"getitimer", SYS_getitimer, {ITIMER_REAL, Question::kAnswer}, sizeof(itimerval)};
//   questions.ask(kTimer);                                           // each room
//   questions.put_to(thread);
//   const auto timer = questions.answer<itimerval>(kTimer);          // each room
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/process/remote.h"

namespace ckpt {

/// A system call that changes nothing and does not block.
struct Question {
  /// Stands for the argument that says where the answer is to be written. No call has such an argument by itself.
  static constexpr uint64_t kAnswer = 0xa5a5a5a5a5a5a5a5;

  const char* name;                 ///< for messages
  long nr;
  std::array<uint64_t, 6> args{};
  size_t bytes = 0;                 ///< that the kernel writes; 0: the result is the answer
};

/// Not thread-safe.
class Questions {
 public:
  void ask(const Question& question);
  /// Makes the calls. Throws Error(ESRCH) if the process died.
  void put_to(Remote& thread);

  /// What the kernel wrote. Throws Error with the call's own errno where it failed.
  template <typename T>
  T answer(const Question& question) const {
    T value{};
    const std::vector<std::byte>& bytes = find(question, true).bytes;
    std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
    return value;
  }
  /// The call's result; of one that may not fail: as answer().
  long result(const Question& question) const { return find(question, false).result; }
  long good_result(const Question& question) const { return find(question, true).result; }

 private:
  struct Answer {
    Question question;
    long result = 0;
    std::vector<std::byte> bytes;
  };
  const Answer& find(const Question& question, bool good) const;

  pid_t pid_ = 0;
  std::vector<Answer> answers_;
};

}  // namespace ckpt
