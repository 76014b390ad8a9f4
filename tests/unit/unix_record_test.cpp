#include "engine/kinds/unix_record.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "engine/base/error.h"

namespace ckpt {
namespace {

UnixSocket parse(const std::string& text) { return UnixSocket::parse(Record::parse(text, "objects/unix-1")); }

int refusal(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.sentence().find("objects/unix-1"), 0u) << e.sentence();
    return e.err();
  }
  return 0;
}

TEST(UnixRecord, EveryFieldComesBack) {
  UnixSocket s;
  s.type = SOCK_SEQPACKET;
  s.state = UnixState::connected;
  s.peer = "unix-17";
  s.name = {std::string("\0a\nb ", 5)};
  s.accepted = true;
  s.peercred = UnixCred{12, 34, 56, {7, 8}};
  s.shut_write = true;
  s.peek_off = 0;
  s.uid = 1000;
  s.gid = 1001;
  s.messages.push_back({.size = 3, .cred = UnixCred{1, 2, 3, {}}, .from = {"/run/x y"}, .passes = {"fd-3", "queued-0"}});
  s.messages.push_back({.size = 0, .cred = {}, .from = {std::string("\0", 1)}, .passes = {}});
  Record out;
  s.write(out);
  const UnixSocket back = parse(out.text());
  EXPECT_EQ(back.type, s.type);
  EXPECT_EQ(back.state, s.state);
  EXPECT_EQ(back.peer, s.peer);
  EXPECT_EQ(back.name, s.name);
  EXPECT_TRUE(back.accepted);
  EXPECT_EQ(back.peercred->groups, s.peercred->groups);
  EXPECT_TRUE(back.shut_write && !back.shut_read && !back.reset);
  EXPECT_EQ(back.peek_off, 0);
  EXPECT_EQ(back.gid, 1001u);
  ASSERT_EQ(back.messages.size(), 2u);
  EXPECT_EQ(back.messages[0].cred->gid, 3u);
  EXPECT_EQ(back.messages[0].from, s.messages[0].from);
  EXPECT_EQ(back.messages[0].passes, s.messages[0].passes);
  EXPECT_EQ(back.messages[1].from, s.messages[1].from);
  Record again;
  back.write(again);
  EXPECT_EQ(again.text(), out.text());
}

TEST(UnixRecord, AListeningOneComesBack) {
  const std::string text =
      "socket stream\nstate listening\npath /run/x\nfile 0140755 0 12\nbacklog 4096\npending unix-5\npending unix-6\nuser 0 0\n";
  const UnixSocket s = parse(text);
  EXPECT_EQ(s.pending, (std::vector<std::string>{"unix-5", "unix-6"}));
  EXPECT_EQ(s.file->mode, 0755u);
  EXPECT_EQ(s.file->gid, 12u);
  Record out;
  s.write(out);
  EXPECT_EQ(out.text(), text);
}

TEST(UnixRecord, HostileOnesAreRefused) {
  const std::string good = "socket stream\nstate unconnected\nuser 0 0\n";
  ASSERT_EQ(refusal(good), 0);
  for (const char* line :
       {"file 0140755 0 0", "file 0140755 0", "message -1", "message 99999999999", "cred 1 2 3", "passes fd-1",
        "from_path /x", "pending unix-1", "accepted 1", "shutdown up", "peek_off -1", "peek_off 99999999999",
        "peercred 1 2", "peercred 1 2 x", "peercred -1 0 0", "peercred 5000000000 0 0", "path ", "peer unix-1",
        "peer ../x", "backlog x"}) {
    EXPECT_EQ(refusal(good + line + "\n"), EINVAL) << line;
  }
  for (const char* line : {"cred 1 2 3 4", "cred 1 2", "passes", "passes fd-x", "passes fd-01", "passes queued-",
                           "passes ../fd-1", "passes queued-1/x"}) {
    EXPECT_EQ(refusal(good + "message 1\n" + line + " \n"), EINVAL) << line;
  }
  EXPECT_EQ(refusal(good + "path " + std::string(109, 'x') + "\n"), EINVAL);
  EXPECT_EQ(refusal(good + "abstract " + std::string(108, 'x') + "\n"), EINVAL);
  EXPECT_EQ(refusal(good + "path /a\\000b\n"), EINVAL);
  EXPECT_EQ(refusal(good + "message 1000000000\nmessage 1000000000\n"), EINVAL) << "the sum is limited";
  EXPECT_EQ(refusal("socket stream\nstate unconnected\n"), EINVAL);
  EXPECT_EQ(refusal("socket raw\nstate unconnected\nuser 0 0\n"), EINVAL);
  EXPECT_EQ(refusal("socket stream\nstate happy\nuser 0 0\n"), EINVAL);
  EXPECT_EQ(refusal("socket stream\nstate connected\nuser 0 0\n"), EINVAL) << "without a peer";
  EXPECT_EQ(refusal("socket dgram\nstate listening\npath /x\nuser 0 0\n"), EINVAL);
  EXPECT_EQ(refusal("socket stream\nstate listening\nuser 0 0\n"), EINVAL) << "without a name";
  EXPECT_EQ(refusal("socket dgram\nstate pending\npeer unix-1\nuser 0 0\n"), EINVAL);
  EXPECT_EQ(refusal("socket stream\nstate unconnected\nuser 0 5000000000\n"), EINVAL);
}

}  // namespace
}  // namespace ckpt
