// Session keyrings of a family: one that the first process and a child have in common, one of another child alone, and the
// one of a user. Nobody has another's keys afterwards, ckptfs's above all.
#include <linux/keyctl.h>

#include "family.h"

namespace {

constexpr uid_t kUser = 1000;

long keyctl(int what, long a = 0, long b = 0, long c = 0) { return syscall(SYS_keyctl, what, a, b, c); }

long session_keyring() { return must(keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0), "the session keyring"); }

/// What keyctl_describe(3) says without the permissions: "keyring 1000 _ses".
std::string description(long key) {
  char text[300] = {};
  must(keyctl(KEYCTL_DESCRIBE, key, reinterpret_cast<long>(text), sizeof text - 1), "KEYCTL_DESCRIBE");
  char type[100], name[100];
  unsigned uid;
  REQUIRE(sscanf(text, "%99[^;];%u;%*[^;];%*[^;];%99[^\n]", type, &uid, name) == 3, "a key is described as %s", text);
  return std::string(type) + " " + std::to_string(uid) + " " + name;
}

void join_keyring(const char* name) {
  must(keyctl(KEYCTL_JOIN_SESSION_KEYRING, reinterpret_cast<long>(name)), "KEYCTL_JOIN_SESSION_KEYRING");
}

void require_session(const char* who, const std::string& expected, uid_t user) {
  const long session = session_keyring();
  REQUIRE(description(session) == expected, "%s: its session keyring is %s", who, description(session).c_str());
  int32_t keys[100];
  const long size = must(keyctl(KEYCTL_READ, session, reinterpret_cast<long>(keys), sizeof keys), "KEYCTL_READ");
  for (size_t i = 0; i < static_cast<size_t>(size) / sizeof keys[0]; ++i) {
    const std::string key = description(keys[i]), own = "keyring " + std::to_string(user) + " _uid." + std::to_string(user);
    REQUIRE(key == own, "%s: has the key %s", who, key.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  if (keyctl(KEYCTL_JOIN_SESSION_KEYRING) == -1 && (errno == ENOSYS || errno == EPERM)) {
    ready();
    wait_for_go();
    return passed();
  }
  must(keyctl(KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_SESSION_KEYRING), "KEYCTL_LINK");
  Roll roll;
  int told[2];
  must(pipe(told), "pipe");
  const auto tell = [&](bool in_common) {
    const long session = session_keyring();
    const std::pair<long, bool> message(session, in_common);
    REQUIRE(write(told[1], &message, sizeof message) == sizeof message, "pipe: %s", strerror(errno));
  };
  const pid_t children[] = {
      child([&] {
        roll.here();
        wait_for_go();
        require_session("a child with the same", "keyring 0 _ses", 0);
        tell(true);
      }),
      child([&] {
        join_keyring(nullptr);
        roll.here();
        wait_for_go();
        require_session("a child with its own", "keyring 0 _ses", 0);
        tell(false);
      }),
      child([&] {
        must(setresgid(kUser, kUser, kUser), "setresgid");
        must(setresuid(kUser, kUser, kUser), "setresuid");
        must(keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_SESSION_KEYRING, 1), "the user's session keyring");
        join_keyring(("_uid_ses." + std::to_string(kUser)).c_str());
        roll.here();
        wait_for_go();
        require_session("a user", "keyring 1000 _uid_ses.1000", kUser);
        tell(false);
      })};
  roll.wait_for(3);
  ready();
  wait_in_place("the first");
  require_session("the first", "keyring 0 _ses", 0);
  REQUIRE(keyctl(KEYCTL_READ, session_keyring()) == sizeof(int32_t), "the user's keyring is not in the session's");
  for (size_t i = 0; i < 3; ++i) {
    std::pair<long, bool> message;
    REQUIRE(read(told[0], &message, sizeof message) == sizeof message, "pipe: %s", strerror(errno));
    REQUIRE((message.first == session_keyring()) == message.second, "keyrings are mixed up");
  }
  for (const pid_t pid : children) join(pid);
  return passed();
}
