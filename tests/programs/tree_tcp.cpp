// TCP connections between processes: one blocked in a read, one that writes without end, one whose end a third process shares.
#include "family.h"
#include "inet.h"

namespace {

constexpr size_t kAll = 6 << 20;
constexpr uint64_t kSeed = 7;

/// Blocks where there is no room.
void send_pattern(int fd, size_t size) {
  const std::string text = filled_text(64 << 10, kSeed);
  for (size_t done = 0; done < size;) {
    const size_t at = done % text.size();
    const ssize_t n = send(fd, text.data() + at, std::min(text.size() - at, size - done), MSG_NOSIGNAL);
    REQUIRE(n > 0 || errno == EINTR, "send after %zu bytes: %s", done, strerror(errno));
    if (n > 0) done += static_cast<size_t>(n);
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  const int listening = listen_at(loopback());
  const sockaddr_in address = address_of<sockaddr_in>(listening, getsockname);
  const Ends asked = connection_to(listening, address), stream = connection_to(listening, address);

  // It answers whenever it is asked, and is blocked in its read meanwhile.
  const pid_t server = child([&] {
    for (const int fd : {asked.one, stream.one, stream.other, listening}) close(fd);
    roll.here();
    char question[6];
    ssize_t n;
    while ((n = recv(asked.other, question, sizeof question, MSG_WAITALL)) == sizeof question) send_text(asked.other, "answer");
    REQUIRE(n == 0, "the server's read: %zd, %s", n, strerror(errno));
  });
  // It is blocked in a write.
  const pid_t writer = child([&] {
    for (const int fd : {asked.one, asked.other, stream.other, listening}) close(fd);
    roll.here();
    send_pattern(stream.one, kAll);
  });
  // It shares an end, and says the last word.
  const pid_t third = child([&] {
    for (const int fd : {asked.other, stream.one, stream.other, listening}) close(fd);
    roll.here();
    wait_in_place("the third");
    wait_until([] { return access(path("asked").c_str(), F_OK) == 0; }, "the first has closed its own");
    send_text(asked.one, "third?");
    await_text(asked.one, "answer", "the third");
  });
  close(asked.other);
  close(stream.one);
  send_text(asked.one, "ready?");
  await_text(asked.one, "answer", "before");
  roll.wait_for(3);
  require_content(stream.other, 1 << 20, kSeed, "the beginning");
  ready();
  wait_in_place("the first");
  send_text(asked.one, "still?");
  await_text(asked.one, "answer", "after");
  close(asked.one);
  write_file("asked", "", 0);
  join(third);
  join(server);
  require_content(stream.other, kAll - (1 << 20), kSeed, "the rest");
  await_end(stream.other, "the rest");
  join(writer);
  const Ends fresh = connection_to(listening, address);
  send_text(fresh.one, "new");
  await_text(fresh.other, "new", "a new connection");
  return passed();
}
