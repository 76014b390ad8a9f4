#include "engine/kinds/sysv_msg.h"

#include <sys/msg.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr const char* kKind = "messages";
constexpr const char* kContent = "-content";
constexpr uint64_t kMaxContent = 1 << 30;

struct Message {
  long type = 0;
  std::string text;
  bool operator==(const Message&) const = default;
};

/// struct msgbuf: the type, then the bytes.
std::vector<char> as_buffer(const Message& message) {
  std::vector<char> buffer(sizeof(long) + message.text.size());
  std::memcpy(buffer.data(), &message.type, sizeof(long));
  std::copy(message.text.begin(), message.text.end(), buffer.begin() + sizeof(long));
  return buffer;
}

msqid_ds stat_queue(int id) {
  msqid_ds ds = {};
  if (msgctl(id, IPC_STAT, &ds) != 0) fail_errno("message queue {}: IPC_STAT", id);
  return ds;
}

std::vector<Message> peek_all(int id, size_t count, size_t bytes) {
  std::vector<char> buffer(sizeof(long) + bytes);
  std::vector<Message> messages;
  for (size_t i = 0; i < count; ++i) {
    const ssize_t n = msgrcv(id, buffer.data(), bytes, static_cast<long>(i), IPC_NOWAIT | MSG_COPY);
    if (n < 0) fail_errno("message queue {}: copying message {} of {} (MSG_COPY)", id, i, count);
    Message message;
    std::memcpy(&message.type, buffer.data(), sizeof(long));
    message.text.assign(buffer.data() + sizeof(long), static_cast<size_t>(n));
    messages.push_back(std::move(message));
  }
  return messages;
}

void capture_queue(ImageSink& image, const IpcMembers& members, int id, const msqid_ds& ds) {
  const auto inside = [&](pid_t pid) { return members.contains(pid) ? pid : 0; };
  Record out;
  add_ipc_object(IpcObject(id, ds.msg_perm), out);
  out.add("capacity", ds.msg_qbytes);
  out.add("sender", inside(ds.msg_lspid));
  out.add("receiver", inside(ds.msg_lrpid));
  std::string content;
  for (const Message& message : peek_all(id, ds.msg_qnum, ds.__msg_cbytes)) {
    out.add("message", fmt::format("{} {}", message.type, message.text.size()));
    content += message.text;
  }
  const std::string path = fmt::format("objects/{}-{}", kKind, id);
  image.put(path, out.text());
  image.put(path + kContent, content);
}

// ---- restore ----

struct RecordedQueue {
  IpcObject object;
  uint64_t capacity = 0;
  pid_t sender = 0;
  pid_t receiver = 0;
  std::vector<Message> messages;
  std::string where;
};

RecordedQueue parse_queue(const ImageSource& image, const std::string& path) {
  const Record record = Record::parse(image.read(path), image.describe() + ": " + path);
  RecordedQueue queue;
  queue.where = record.where();
  queue.object = parse_ipc_object(record);
  queue.capacity = record.get_u64("capacity", INT32_MAX);
  queue.sender = static_cast<pid_t>(record.get_u64("sender", INT32_MAX));
  queue.receiver = static_cast<pid_t>(record.get_u64("receiver", INT32_MAX));
  const std::string content = image.read(path + kContent, kMaxContent);
  size_t at = 0;
  for (const std::string& line : record.all("message")) {
    const auto numbers = record.numbers(line, 2);
    if (numbers[0] == 0 || numbers[0] > INT64_MAX || numbers[1] > content.size() - at) {
      fail(EINVAL, "{}: message '{}' is none, or beyond the content", queue.where, escape(line));
    }
    queue.messages.push_back({static_cast<long>(numbers[0]), content.substr(at, numbers[1])});
    at += numbers[1];
  }
  if (at != content.size()) fail(EINVAL, "{}: the content is longer than its messages", queue.where);
  return queue;
}

void send(int id, const Message& message) {
  const std::vector<char> buffer = as_buffer(message);
  if (msgsnd(id, buffer.data(), message.text.size(), IPC_NOWAIT) != 0) fail_errno("message queue {}: msgsnd", id);
}

/// By a process of the image, where the message fits into what it has room for.
void send_as(Remote* member, int id, const Message& message) {
  const std::vector<char> buffer = as_buffer(message);
  if (member == nullptr || buffer.size() > member->scratch_size()) return send(id, message);
  member->write(member->scratch(), std::as_bytes(std::span(buffer)));
  member->call("msgsnd", SYS_msgsnd, static_cast<uint64_t>(id), member->scratch().addr, message.text.size(), IPC_NOWAIT);
}

void drain(int id) {
  std::array<char, sizeof(long) + 1> buffer;
  while (msgrcv(id, buffer.data(), 1, 0, IPC_NOWAIT | MSG_NOERROR) >= 0) {
  }
}

void set_attributes(const IpcObject& object, uint64_t capacity, const std::string& where) {
  msqid_ds ds = {};
  object.set(ds.msg_perm);
  ds.msg_qbytes = capacity;
  if (msgctl(object.id, IPC_SET, &ds) != 0) fail_errno("{}: IPC_SET", where);
}

/// The calls that put the messages back into a queue that holds at most `most` others by then.
std::vector<DeathGuard::Call> calls_to_replace(Traces& traces, int id, const std::vector<Message>& messages, size_t most) {
  const DeathGuard::Call take = {SYS_msgrcv, {id, traces.keep(std::string(sizeof(long), '\0')), 0, 0, IPC_NOWAIT | MSG_NOERROR}};
  std::vector<DeathGuard::Call> calls(most, take);
  for (const Message& message : messages) {
    const std::vector<char> buffer = as_buffer(message);
    const long kept = traces.keep(std::string(buffer.begin(), buffer.end()));
    calls.push_back({SYS_msgsnd, {id, kept, static_cast<long>(message.text.size()), IPC_NOWAIT}});
  }
  return calls;
}

/// Puts other messages into a queue that is there.
void replace(int id, const std::vector<Message>& messages) {
  drain(id);
  for (const Message& message : messages) send(id, message);
}

/// True where the queue is there and may be taken. Throws Error(EEXIST) for another one.
bool find_queue(const RecordedQueue& queue) {
  msqid_ds ds = {};
  if (msgctl(queue.object.id, IPC_STAT, &ds) == 0) {
    if (ds.msg_perm.__key == queue.object.key) return true;
    fail(EEXIST, "{}: the id {} is that of another message queue", queue.where, queue.object.id);
  }
  const int other = queue.object.key == IPC_PRIVATE ? -1 : msgget(queue.object.key, 0);
  if (other >= 0) fail(EEXIST, "{}: the key {:#x} is that of another message queue ({})", queue.where, queue.object.key, other);
  return false;
}

void make_queue(const RecordedQueue& queue, const Caller& caller) {
  if (!caller.privileged()) fail(EPERM, "{}: only root may resume a process whose message queue has gone", queue.where);
  choose_next_id("msg", queue.object.id, queue.where);
  const int got = msgget(queue.object.key, IPC_CREAT | IPC_EXCL | 0600);
  if (got < 0) fail_errno("{}: msgget", queue.where);
  if (got != queue.object.id) {
    msgctl(got, IPC_RMID, nullptr);
    fail(EEXIST, "{}: the id {} of a message queue cannot be had", queue.where, queue.object.id);
  }
}

/// Takes the queue that is there, or makes it. False where its messages are those of the image already.
bool obtain_queue(const RecordedQueue& queue, const Caller& caller, Traces& traces) {
  const int id = queue.object.id;
  if (!find_queue(queue)) {
    traces.guard({SYS_msgctl, {id, IPC_RMID}});
    make_queue(queue, caller);
    traces.made([id] { msgctl(id, IPC_RMID, nullptr); });
    set_attributes(queue.object, queue.capacity, queue.where);
    return true;
  }
  const msqid_ds ds = stat_queue(id);
  check_owns(caller, IpcObject(id, ds.msg_perm), queue.where);
  if (ds.msg_qbytes != queue.capacity) {
    fail(EEXIST, "{}: the message queue {} exists, with room for {} bytes", queue.where, id, ds.msg_qbytes);
  }
  const std::vector<Message> before = peek_all(id, ds.msg_qnum, ds.__msg_cbytes);
  if (before == queue.messages) return false;
  traces.guard_all(calls_to_replace(traces, id, before, std::max(before.size(), queue.messages.size() + 1)));
  traces.made([id, before] {
    try {
      replace(id, before);
    } catch (const Error&) {
      // It has gone.
    }
  });
  drain(id);
  return true;
}

/// The messages, the last one by who sent it then; before them one that the last receiver takes.
void fill_queue(const RecordedQueue& queue, const IpcMembers& members) {
  const int id = queue.object.id;
  const auto member = [&](pid_t pid) -> Remote* {
    const auto found = members.find(pid);
    return found == members.end() ? nullptr : found->second;
  };
  Remote* const sender = member(queue.sender);
  Remote* const receiver = member(queue.receiver);
  if (receiver != nullptr) {
    send_as(sender, id, {1, ""});
    receiver->call("msgrcv", SYS_msgrcv, static_cast<uint64_t>(id), receiver->scratch().addr, 0, 0, IPC_NOWAIT);
  }
  for (size_t i = 0; i < queue.messages.size(); ++i) {
    send_as(i + 1 == queue.messages.size() ? sender : nullptr, id, queue.messages[i]);
  }
}

}  // namespace

void capture_message_queues(ImageSink& image, const IpcMembers& members) {
  for (const int id : list_ipc_objects("msg")) {
    msqid_ds ds = {};
    // One that we may not read, or that has just gone, is none of theirs.
    if (msgctl(id, IPC_STAT, &ds) != 0) continue;
    const pid_t last[] = {ds.msg_lspid, ds.msg_lrpid};
    if (belongs_to(members, last)) capture_queue(image, members, id, ds);
  }
}

void restore_message_queues(const ImageSource& image, const Caller& caller, const IpcMembers& members,
                            Traces& traces) {
  for (const std::string& path : recorded_ipc_objects(image, kKind)) {
    if (path.ends_with(kContent)) continue;
    const RecordedQueue queue = parse_queue(image, path);
    if (obtain_queue(queue, caller, traces)) fill_queue(queue, members);
  }
}

}  // namespace ckpt
