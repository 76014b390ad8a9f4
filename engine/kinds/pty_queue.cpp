#include "engine/kinds/pty_queue.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/process/outlive.h"

// <sys/ioctl.h> and <asm/termbits.h> do not go together with <termios.h>.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept;

namespace ckpt {

namespace {

constexpr unsigned long kFionread = 0x541b, kTiocsti = 0x5412, kTiocpkt = 0x5420, kTiocgpkt = 0x80045438,
                        kTcgets2 = 0x802c542a, kTcsets2 = 0x402c542b;
constexpr size_t kQueue = 4095;                  // of n_tty, N_TTY_BUF_SIZE less one
constexpr cc_t kDisabled = 0;                    // _POSIX_VDISABLE

int waiting(int fd) {
  pollfd state = {fd, POLLIN, 0};
  ::poll(&state, 1, 0);  // which also moves what is still on its way into the queue
  int bytes = 0;
  return ioctl(fd, kFionread, &bytes) == 0 ? bytes : 0;
}

bool readable(int fd) {
  pollfd state = {fd, POLLIN, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLIN) != 0;
}

/// Without what would answer, change or hold what passes; IXON stays, since switching it off starts a stopped terminal.
termios2 quiet(const termios2& from, bool lines) {
  termios2 to = from;
  to.c_iflag &= IXON;
  to.c_oflag = 0;
  to.c_lflag = lines ? ICANON : 0;
  std::memset(to.c_cc, kDisabled, sizeof to.c_cc);
  to.c_cc[VTIME] = 0;
  to.c_cc[VMIN] = lines ? kDisabled : 0;
  return to;
}

/// As if it had been received on this side of the pair; without the right to that, through the other side.
void push(int side, int other, const char* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if (ioctl(side, kTiocsti, data + i) == 0) continue;
    if (other >= 0 && ::write(other, data + i, size - i) > 0) waiting(side);
    return;
  }
}

/// Everything that is taken out, in memory that needs no allocation.
struct Taken {
  struct Piece {
    PtyInput::Kind kind;
    unsigned begin, size;
  };
  int master, slave;
  termios2 termios;
  bool packets;
  size_t input_size = 0, output_size = 0, pieces = 0;
  std::array<char, 4 * kQueue> input, output;
  std::array<Piece, kQueue + 2> piece;

  void add(PtyInput::Kind kind, size_t size) {
    if (pieces == piece.size()) return;
    piece[pieces++] = {kind, static_cast<unsigned>(input_size), static_cast<unsigned>(size)};
    input_size += size;
  }

  void take_lines() {
    while (readable(slave) && pieces < kQueue) {
      const ssize_t n = ::read(slave, input.data() + input_size, input.size() - input_size);
      if (n < 0) return;
      const char last = n > 0 ? input[input_size + static_cast<size_t>(n) - 1] : '\0';
      const bool whole = n > 0 && (last == '\n' || is_end_of_line(last));
      add(whole ? PtyInput::line : PtyInput::end, static_cast<size_t>(n));
    }
  }

  bool is_end_of_line(char c) const {
    const auto byte = static_cast<cc_t>(c);
    return byte != kDisabled && (byte == termios.c_cc[VEOL] || byte == termios.c_cc[VEOL2]);
  }

  void take_input() {
    if ((termios.c_lflag & ICANON) != 0) take_lines();
    termios2 raw = quiet(termios, false);
    ioctl(slave, kTcsets2, &raw);
    for (size_t got = 0; waiting(slave) > 0 && input_size + got < input.size();) {
      const ssize_t n = ::read(slave, input.data() + input_size + got, input.size() - input_size - got);
      if (n <= 0) break;
      got += static_cast<size_t>(n);
      if (waiting(slave) == 0) add(PtyInput::rest, got);
    }
  }

  void take_output() {
    for (int n = 0; (n = waiting(master)) > 0 && output_size < output.size();) {
      const size_t room = std::min(output.size() - output_size, static_cast<size_t>(n));
      const ssize_t got = ::read(master, output.data() + output_size, room);
      if (got <= 0) return;
      output_size += static_cast<size_t>(got);
    }
  }

  /// A byte for VEOF that is not in the text.
  static cc_t unused(const char* text, size_t size) {
    for (int byte = 1; byte < 256; ++byte) {
      if (byte != '\n' && std::memchr(text, byte, size) == nullptr) return static_cast<cc_t>(byte);
    }
    return kDisabled;
  }

  void put_input() const {
    const bool lines = (termios.c_lflag & ICANON) != 0;
    termios2 mode = quiet(termios, lines);
    if (pieces != 0) ioctl(slave, kTcsets2, &mode);
    for (size_t i = 0; i < pieces; ++i) {
      const char* text = input.data() + piece[i].begin;
      const size_t size = piece[i].size;
      mode.c_cc[VEOF] = unused(text, size);
      mode.c_cc[VEOL] = piece[i].kind == PtyInput::line ? static_cast<cc_t>(text[size - 1]) : kDisabled;
      if (lines) ioctl(slave, kTcsets2, &mode);
      push(slave, master, text, size);
      const char end = static_cast<char>(mode.c_cc[VEOF]);
      if (piece[i].kind == PtyInput::end) push(slave, master, &end, 1);
    }
    ioctl(slave, kTcsets2, &termios);
  }

  void put_output() const { push(master, slave, output.data(), output_size); }

  void take_and_put_back() {
    int off = 0, on = 1;
    if (packets) ioctl(master, kTiocpkt, &off);
    take_output();
    if (slave >= 0) {
      take_input();
      put_input();
    }
    put_output();
    if (packets) ioctl(master, kTiocpkt, &on);
  }
};

}  // namespace

PtyContent look_into_pty(int master, int slave, const std::string& where) {
  const auto taken = std::make_unique<Taken>();
  taken->master = master;
  taken->slave = slave;
  int packets = 0;
  if (ioctl(master, kTcgets2, &taken->termios) != 0) fail_errno("{}: settings of the terminal", where);
  taken->packets = ioctl(master, kTiocgpkt, &packets) == 0 && packets != 0;
  if (waiting(master) >= static_cast<int>(kQueue) || (slave >= 0 && waiting(slave) >= static_cast<int>(kQueue))) {
    fail(EOPNOTSUPP, "{}: a pseudo-terminal with {} bytes or more to be read cannot be checkpointed", where, kQueue);
  }
  // Nothing to take out, and no unfinished line that could not be seen.
  const bool visible = slave < 0 || ((taken->termios.c_lflag & ICANON) == 0 && waiting(slave) == 0);
  if (visible && waiting(master) == 0) return {};
  auto work = [&] { taken->take_and_put_back(); };
  outlive(work);
  PtyContent content;
  content.output.assign(taken->output.data(), taken->output_size);
  for (size_t i = 0; i < taken->pieces; ++i) {
    const Taken::Piece& piece = taken->piece[i];
    content.input.push_back({piece.kind, std::string(taken->input.data() + piece.begin, piece.size)});
  }
  return content;
}

void fill_pty(int master, int slave, const PtyContent& content, const termios2& termios, const std::string& where) {
  const auto given = std::make_unique<Taken>();
  given->master = master;
  given->slave = slave;
  given->termios = termios;
  for (const PtyInput& input : content.input) {
    const bool malformed = input.kind == PtyInput::line && input.text.empty();
    if (malformed || given->pieces == kQueue || input.text.size() > kQueue - given->input_size) {
      fail(EINVAL, "{}: more input than a terminal holds, or an empty line", where);
    }
    std::memcpy(given->input.data() + given->input_size, input.text.data(), input.text.size());
    given->add(input.kind, input.text.size());
  }
  if (content.output.size() > kQueue) fail(EINVAL, "{}: more output than a terminal holds", where);
  std::memcpy(given->output.data(), content.output.data(), content.output.size());
  given->output_size = content.output.size();
  given->put_output();
  if (slave >= 0) given->put_input();
  if (ioctl(master, kTcsets2, &termios) != 0) fail_errno("{}: settings of the terminal", where);
}

}  // namespace ckpt
