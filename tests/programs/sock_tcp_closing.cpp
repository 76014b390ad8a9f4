// TCP connections that are closed, in one half or both, in every state in which they have a descriptor.
#include "inet.h"

namespace {

void wait_state(int fd, int state, const char* what) {
  wait_until([&] { return tcp_info_of(fd).tcpi_state == state; }, what);
}

void require_state(int fd, int state, const char* what) {
  // What the other end says comes soon.
  wait_until([&] { return tcp_info_of(fd).tcpi_state == state || tcp_info_of(fd).tcpi_state == TCP_CLOSE; }, what);
  REQUIRE(tcp_info_of(fd).tcpi_state == state, "%s: state %d, not %d", what, tcp_info_of(fd).tcpi_state, state);
}

void close_half(int fd) { must(shutdown(fd, SHUT_WR), "shutdown"); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int listening = listen_at(loopback());
  const sockaddr_in address = address_of<sockaddr_in>(listening, getsockname);
  const auto make = [&] { return connection_to(listening, address); };
  const Ends half = make(), full = make(), alone = make(), both = make(), deaf = make();

  // One end has said everything, and it waits to be read.
  send_text(half.one, "the last words");
  close_half(half.one);
  wait_state(half.one, TCP_FIN_WAIT2, "the end is acknowledged");
  wait_state(half.other, TCP_CLOSE_WAIT, "the end comes");
  // The end stands behind what the other has no room for.
  const size_t size = fill_connection(full.one, 3);
  close_half(full.one);
  wait_state(full.one, TCP_FIN_WAIT1, "the end waits");
  // The other end has gone altogether.
  send_text(alone.one, "farewell");
  close(alone.one);
  wait_state(alone.other, TCP_CLOSE_WAIT, "the end comes");
  // It is over on both sides.
  close_half(both.one);
  wait_state(both.other, TCP_CLOSE_WAIT, "the end comes");
  close_half(both.other);
  wait_state(both.other, TCP_CLOSE, "the end of the second half is acknowledged");
  wait_state(both.one, TCP_CLOSE, "the second half has ended");
  // Nothing is wanted any more; it may be said all the same.
  must(shutdown(deaf.one, SHUT_RD), "shutdown");
  ready();
  wait_for_go();

  require_state(half.other, TCP_CLOSE_WAIT, "the half-closed one");
  REQUIRE((events(half.other) & (POLLIN | POLLRDHUP | POLLOUT)) == (POLLIN | POLLRDHUP | POLLOUT), "events %#x", events(half.other));
  await_text(half.other, "the last words", "the half-closed one");
  await_end(half.other, "the half-closed one");
  require_state(half.one, TCP_FIN_WAIT2, "the half that is closed");
  send_text(half.other, "an answer");
  await_text(half.one, "an answer", "the half-closed one, back");
  REQUIRE(send(half.one, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "the closed half takes something");
  close(half.other);
  await_end(half.one, "the half-closed one, at its end");

  require_content(full.other, size, 3, "the full one");
  await_end(full.other, "the full one");
  send_text(full.other, "all of it");
  await_text(full.one, "all of it", "the full one, back");

  await_text(alone.other, "farewell", "the one that is alone");
  await_end(alone.other, "the one that is alone");
  for (const int fd : {both.one, both.other}) {
    REQUIRE(receive(fd).empty(), "the one that is over does not end");
    REQUIRE(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "the one that is over takes something");
    REQUIRE((events(fd) & POLLHUP) != 0, "the one that is over has events %#x", events(fd));
  }
  REQUIRE((events(deaf.one) & POLLRDHUP) != 0, "the deaf one listens");
  REQUIRE(receive(deaf.one).empty(), "the deaf one has something");
  send_text(deaf.one, "said");
  await_text(deaf.other, "said", "what the deaf one says");
  return passed();
}
