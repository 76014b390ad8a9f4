#include "engine/kinds/sem_undo.h"

#include <sys/sem.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

using Operations = std::vector<sembuf>;

/// Operations on one semaphore of a known value, none of which waits.
class OperationList {
 public:
  explicit OperationList(size_t number) : number_(static_cast<unsigned short>(number)) {}
  void add(int value, bool with_undo) {
    if (value == 0) return;  // that would wait for zero
    const short flags = with_undo ? IPC_NOWAIT | SEM_UNDO : IPC_NOWAIT;
    operations.push_back({number_, static_cast<short>(value), flags});
  }
  Operations operations;

 private:
  unsigned short number_;
};

constexpr size_t kMostForOne = 6;

/// Can be done, but for what follows, where the undo value is at least `limit` >= 0: the value goes from one end of its range to
/// the other with undo, which takes that down by as much, and then what is left until it is out of its range.
void require_at_least(OperationList& list, unsigned short value, int limit) {
  list.add(-value, false);
  list.add(kMaxSemaphore, true);   // the undo value is now its own - 32767; -32768 is the least
  list.add(-kMaxSemaphore, false);
  list.add(limit, true);
  list.add(-limit, false);
  list.add(1, true);
}

/// The same for at most `limit` <= 0.
void require_at_most(OperationList& list, unsigned short value, int limit) {
  list.add(kMaxSemaphore - value, false);
  list.add(-kMaxSemaphore, true);  // its own + 32767, which is the most
  list.add(kMaxSemaphore, false);
  list.add(limit, true);
}

/// Whether the operations can be done up to the last, which cannot.
bool can_be_done(Remote& process, int id, Operations operations) {
  operations.push_back({operations.front().sem_num, -kMaxSemaphore - 1, IPC_NOWAIT});
  process.write(process.scratch(), std::as_bytes(std::span(operations)));
  const auto err = static_cast<int>(-process.syscall(SYS_semop, static_cast<uint64_t>(id), process.scratch().addr, operations.size()));
  if (err != EAGAIN && err != ERANGE) {
    fail(err > 0 ? err : EIO, "{}: semaphore set {}: reading the undo values: {}", process.pid(), id, errno_text(err));
  }
  return err == EAGAIN;
}

bool is_at_least(Remote& process, int id, size_t number, unsigned short value, int limit) {
  OperationList list(number);
  require_at_least(list, value, limit);
  return can_be_done(process, id, list.operations);
}

bool is_at_most(Remote& process, int id, size_t number, unsigned short value, int limit) {
  OperationList list(number);
  require_at_most(list, value, limit);
  return can_be_done(process, id, list.operations);
}

int read_one(Remote& process, int id, size_t number, unsigned short value) {
  const bool positive = is_at_least(process, id, number, value, 1);
  if (!positive && is_at_least(process, id, number, value, 0)) return 0;
  // The largest magnitude that it reaches.
  int reached = positive ? 1 : 0, beyond = kMaxSemaphore + 1;
  while (beyond - reached > 1) {
    const int middle = reached + (beyond - reached) / 2;
    const bool reaches = positive ? is_at_least(process, id, number, value, middle)
                                  : is_at_most(process, id, number, value, -middle);
    (reaches ? reached : beyond) = middle;
  }
  return positive ? reached : -reached;
}

/// How many operations one semop(2) takes: SEMOPM, the third number.
size_t most_operations(const Remote& process) {
  const auto words = split_words(read_file("/proc/sys/kernel/sem"));
  const auto most = words.size() < 3 ? std::nullopt : parse_u64(words[2]);
  return std::min<size_t>(most.value_or(0), process.scratch_size() / sizeof(sembuf));
}

/// A list of operations that must be possible.
void operate(Remote& process, int id, const Operations& operations) {
  process.write(process.scratch(), std::as_bytes(std::span(operations)));
  process.call("semop", SYS_semop, static_cast<uint64_t>(id), process.scratch().addr, operations.size());
}

}  // namespace

std::vector<int> read_undo(Remote& process, int id, std::span<const unsigned short> values) {
  std::vector<int> undo(values.size());
  const size_t most = most_operations(process);
  if (most <= kMostForOne) {
    fail(EOPNOTSUPP, "{}: semaphore set {}: undo values are read with more than {} operations at once (/proc/sys/kernel/sem)",
         process.pid(), id, most);
  }
  const size_t at_once = (most - 1) / kMostForOne;
  for (size_t begin = 0; begin < values.size(); begin += at_once) {
    const size_t end = std::min(begin + at_once, values.size());
    // Nearly always all are 0, which two calls tell.
    Operations up, down;
    for (size_t i = begin; i < end; ++i) {
      OperationList at_least(i), at_most(i);
      require_at_least(at_least, values[i], 0);
      require_at_most(at_most, values[i], 0);
      up.insert(up.end(), at_least.operations.begin(), at_least.operations.end());
      down.insert(down.end(), at_most.operations.begin(), at_most.operations.end());
    }
    if (can_be_done(process, id, up) && can_be_done(process, id, down)) continue;
    for (size_t i = begin; i < end; ++i) undo[i] = read_one(process, id, i, values[i]);
  }
  return undo;
}

// In steps that keep the value in its range, there and back in one call.
void add_undo(Remote& process, int id, size_t number, unsigned short value, int undo) {
  const int sign = undo < 0 ? -1 : 1;
  const int down = value, up = kMaxSemaphore - value;
  for (int left = std::abs(undo); left > 0;) {
    const int step = std::min(left, std::max(down, up));
    OperationList list(number);
    const bool lower_first = down >= step;
    const int first = lower_first ? -step : step;
    // semadj goes the other way than the value: the operation that lowers it adds to the undo value.
    list.add(first, (first < 0) == (sign > 0));
    list.add(-first, (-first < 0) == (sign > 0));
    operate(process, id, list.operations);
    left -= step;
  }
}

void touch_semaphore(Remote& process, int id, size_t number, unsigned short value) {
  OperationList list(number);
  list.add(value > 0 ? -1 : 1, false);
  list.add(value > 0 ? 1 : -1, false);
  operate(process, id, list.operations);
}

}  // namespace ckpt
