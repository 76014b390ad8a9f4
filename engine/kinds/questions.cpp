#include "engine/kinds/questions.h"

#include "engine/base/error.h"

namespace ckpt {

namespace {

/// Of an answer in the scratch memory, where each begins at a multiple of 8.
size_t room_for(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

bool same(const Question& a, const Question& b) { return a.nr == b.nr && a.args == b.args; }

}  // namespace

void Questions::ask(const Question& question) { answers_.push_back({question, 0, std::vector<std::byte>(question.bytes)}); }

void Questions::put_to(Remote& thread) {
  pid_ = thread.pid();
  for (auto next = answers_.begin(); next != answers_.end();) {
    const auto first = next;
    std::vector<SystemCall> calls;
    size_t size = 0;
    while (next != answers_.end() && calls.size() < Remote::kCallsAtOnce && size + next->bytes.size() <= thread.scratch_size()) {
      SystemCall call{next->question.nr, next->question.args};
      std::ranges::replace(call.args, Question::kAnswer, (thread.scratch() + size).addr);
      calls.push_back(call);
      size += room_for(next->bytes.size());
      ++next;
    }
    const std::vector<long> results = thread.run_all(calls);
    std::vector<std::byte> written(size);
    thread.read(thread.scratch(), written);
    size_t at = 0;
    for (auto it = first; it != next; ++it) {
      it->result = results[static_cast<size_t>(it - first)];
      std::copy_n(written.begin() + static_cast<ptrdiff_t>(at), it->bytes.size(), it->bytes.begin());
      at += room_for(it->bytes.size());
    }
  }
}

const Questions::Answer& Questions::find(const Question& question, bool good) const {
  const auto it = std::ranges::find_if(answers_, [&](const Answer& a) { return same(a.question, question); });
  if (it == answers_.end()) fail(EINVAL, "{}: {} was not asked", pid_, question.name);
  if (good && it->result < 0) {
    const int err = static_cast<int>(-it->result);
    fail(err, "{}: {} in the process: {}", pid_, question.name, errno_text(err));
  }
  return *it;
}

}  // namespace ckpt
