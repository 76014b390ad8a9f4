#include "engine/kinds/sysv_sem.h"

#include <sys/sem.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/sem_undo.h"

namespace ckpt {

namespace {

constexpr const char* kKind = "semaphores";
constexpr size_t kMaxSemaphores = 65536;  // SEMMSL is an int, but a list of operations has 16 bits for each number

union SemArgument {
  int value;
  semid_ds* ds;
  unsigned short* array;
};

using Values = std::vector<unsigned short>;

std::vector<pid_t> last_operators(int id, size_t count) {
  std::vector<pid_t> last;
  for (size_t i = 0; i < count; ++i) last.push_back(std::max(semctl(id, static_cast<int>(i), GETPID), 0));
  return last;
}

Values get_values(int id, size_t count) {
  Values values(count);
  if (semctl(id, 0, GETALL, SemArgument{.array = values.data()}) < 0) fail_errno("semaphore set {}: GETALL", id);
  return values;
}

void set_values(int id, Values values) {
  if (semctl(id, 0, SETALL, SemArgument{.array = values.data()}) < 0) fail_errno("semaphore set {}: SETALL", id);
}

void capture_set(ImageSink& image, const IpcMembers& members, const std::map<pid_t, Sharing>& sharing, const semid_ds& ds,
                 int id, const std::vector<pid_t>& last) {
  const Values values = get_values(id, ds.sem_nsems);
  Record out;
  add_ipc_object(IpcObject(id, ds.sem_perm), out);
  out.add("values", fmt::format("{}", fmt::join(values, " ")));
  std::vector<pid_t> inside = last;
  for (pid_t& pid : inside) pid = members.contains(pid) ? pid : 0;
  out.add("last", fmt::format("{}", fmt::join(inside, " ")));
  for (const auto& [pid, leader] : members) {
    const auto shares = sharing.find(pid);
    if (!has_semaphore_undo(pid) || (shares != sharing.end() && shares->second.semaphore_undo != 0)) continue;
    const std::vector<int> undo = read_undo(*leader, id, values);
    const bool nothing = std::ranges::all_of(undo, [](int value) { return value == 0; });
    if (!nothing) out.add("undo", fmt::format("{} {}", pid, fmt::join(undo, " ")));
  }
  image.put(fmt::format("objects/{}-{}", kKind, id), out.text());
}

// ---- restore ----

struct RecordedSet {
  IpcObject object;
  Values values;
  std::vector<pid_t> last;
  std::map<pid_t, std::vector<int>> undo;
  std::string where;
};

std::vector<int> parse_undo(const Record& record, const std::string& line, size_t count) {
  const auto words = split_words(line);
  std::vector<int> undo;
  for (size_t i = 1; i < words.size(); ++i) {
    const auto value = parse_i64(words[i]);
    if (!value || *value < -kMaxSemaphore - 1 || *value > kMaxSemaphore) break;
    undo.push_back(static_cast<int>(*value));
  }
  if (undo.size() != count) fail(EINVAL, "{}: undo '{}' is not a process and {} values", record.where(), escape(line), count);
  return undo;
}

RecordedSet parse_set(const Record& record) {
  RecordedSet set;
  set.where = record.where();
  set.object = parse_ipc_object(record);
  const size_t count = split_words(record.get("values")).size();
  if (count == 0 || count > kMaxSemaphores) fail(EINVAL, "{}: {} semaphores", set.where, count);
  for (const uint64_t value : record.get_numbers("values", count)) {
    if (value > kMaxSemaphore) fail(EINVAL, "{}: {} is no value of a semaphore", set.where, value);
    set.values.push_back(static_cast<unsigned short>(value));
  }
  for (const uint64_t pid : record.get_numbers("last", count)) set.last.push_back(static_cast<pid_t>(pid));
  for (const std::string& line : record.all("undo")) {
    const auto pid = parse_u64(split_words(line + " -")[0]);
    if (!pid) fail(EINVAL, "{}: undo '{}' is of no process", set.where, escape(line));
    set.undo[static_cast<pid_t>(*pid)] = parse_undo(record, line, count);
  }
  return set;
}

/// True where the set is there and may be taken. Throws Error(EEXIST) for another one.
bool find_set(const RecordedSet& set) {
  const int id = set.object.id;
  semid_ds ds = {};
  if (semctl(id, 0, IPC_STAT, SemArgument{.ds = &ds}) < 0) {
    const int other = set.object.key == IPC_PRIVATE ? -1 : semget(set.object.key, 0, 0);
    if (other >= 0) fail(EEXIST, "{}: the key {:#x} is that of another semaphore set ({})", set.where, set.object.key, other);
    return false;
  }
  if (ds.sem_perm.__key != set.object.key || ds.sem_nsems != set.values.size()) {
    fail(EEXIST, "{}: the id {} is that of another semaphore set", set.where, id);
  }
  for (int i = 0; i < static_cast<int>(ds.sem_nsems); ++i) {
    if (semctl(id, i, GETNCNT) > 0 || semctl(id, i, GETZCNT) > 0) {
      fail(EEXIST, "{}: the semaphore set {} exists, and somebody waits for it", set.where, id);
    }
  }
  return true;
}

void make_set(const RecordedSet& set, const Caller& caller) {
  if (!caller.privileged()) fail(EPERM, "{}: only root may resume a process whose semaphore set has gone", set.where);
  choose_next_id("sem", set.object.id, set.where);
  const int got = semget(set.object.key, static_cast<int>(set.values.size()), IPC_CREAT | IPC_EXCL | 0600);
  if (got < 0) fail_errno("{}: semget", set.where);
  if (got != set.object.id) {
    semctl(got, 0, IPC_RMID);
    fail(EEXIST, "{}: the id {} of a semaphore set cannot be had", set.where, set.object.id);
  }
}

void set_permissions(const IpcObject& object, const std::string& where) {
  semid_ds ds = {};
  object.set(ds.sem_perm);
  if (semctl(object.id, 0, IPC_SET, SemArgument{.ds = &ds}) < 0) fail_errno("{}: IPC_SET", where);
}

/// Takes the set that is there, or makes it.
void obtain_set(const RecordedSet& set, const Caller& caller, Traces& traces) {
  const int id = set.object.id;
  if (!find_set(set)) {
    traces.guard({SYS_semctl, {id, 0, IPC_RMID}});
    make_set(set, caller);
    traces.made([id] { semctl(id, 0, IPC_RMID); });
    return set_permissions(set.object, set.where);
  }
  semid_ds ds = {};
  if (semctl(id, 0, IPC_STAT, SemArgument{.ds = &ds}) < 0) fail_errno("{}: IPC_STAT", set.where);
  check_owns(caller, IpcObject(id, ds.sem_perm), set.where);
  Values before = get_values(id, set.values.size());
  const std::string bytes(reinterpret_cast<const char*>(before.data()), before.size() * sizeof before[0]);
  traces.guard({SYS_semctl, {id, 0, SETALL, traces.keep(bytes)}});
  traces.made([id, before]() mutable { semctl(id, 0, SETALL, SemArgument{.array = before.data()}); });
}

/// The value, with the member as who has set it. Clears the undo values of all processes.
void set_as(Remote& member, int id, size_t number, unsigned short value) {
  member.call("semctl", SYS_semctl, static_cast<uint64_t>(id), number, SETVAL, value);
}

void fill_set(const RecordedSet& set, const IpcMembers& members) {
  const auto member = [&](pid_t pid) -> Remote* {
    const auto found = members.find(pid);
    return found == members.end() ? nullptr : found->second;
  };
  set_values(set.object.id, set.values);
  for (size_t i = 0; i < set.values.size(); ++i) {
    if (Remote* last = member(set.last[i])) set_as(*last, set.object.id, i, set.values[i]);
  }
  for (const auto& [pid, undo] : set.undo) {
    Remote* const owner = member(pid);
    if (owner == nullptr) fail(EINVAL, "{}: undo of {}, which is no process of the image", set.where, pid);
    for (size_t i = 0; i < undo.size(); ++i) {
      if (undo[i] == 0) continue;
      add_undo(*owner, set.object.id, i, set.values[i], undo[i]);
      if (Remote* last = member(set.last[i]); last != nullptr && set.last[i] != pid) {
        touch_semaphore(*last, set.object.id, i, set.values[i]);
      }
    }
  }
}

}  // namespace

void capture_semaphores(ImageSink& image, const IpcMembers& members, const std::map<pid_t, Sharing>& sharing) {
  for (const int id : list_ipc_objects("sem")) {
    semid_ds ds = {};
    // One that we may not read, or that has just gone, is none of theirs.
    if (semctl(id, 0, IPC_STAT, SemArgument{.ds = &ds}) < 0) continue;
    const std::vector<pid_t> last = last_operators(id, ds.sem_nsems);
    if (belongs_to(members, last)) capture_set(image, members, sharing, ds, id, last);
  }
}

void restore_semaphores(const ImageSource& image, const Caller& caller, const IpcMembers& members,
                        Traces& traces) {
  for (const std::string& path : recorded_ipc_objects(image, kKind)) {
    const RecordedSet set = parse_set(Record::parse(image.read(path), image.describe() + ": " + path));
    obtain_set(set, caller, traces);
    fill_set(set, members);
  }
}

}  // namespace ckpt
