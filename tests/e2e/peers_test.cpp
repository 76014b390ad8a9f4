// TCP connections to peers outside the process tree, which live on: they notice nothing but that nobody answers for a while.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <sstream>

#include "engine/base/fd.h"
#include "engine/kernel.h"
#include "engine/kinds/netlink_message.h"
#include "program.h"

namespace ckpt_test {
namespace {

using ckpt::UniqueFd;

/// The names of all tables of nf_tables, as the kernel tells them.
std::string nft_tables() {
  const UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  ckpt::NetlinkMessages request;
  request.begin(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_DUMP, nfgenmsg{AF_UNSPEC, NFNETLINK_V0, 0});
  const auto bytes = request.finish();
  EXPECT_GT(send(fd.get(), bytes.data(), bytes.size(), 0), 0);
  std::string all;
  for (;;) {
    alignas(nlmsghdr) char buffer[65536];
    const ssize_t n = recv(fd.get(), buffer, sizeof buffer, 0);
    if (n <= 0) return all;
    all.append(buffer, static_cast<size_t>(n));
    auto rest = static_cast<unsigned>(n);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(buffer); NLMSG_OK(h, rest); h = NLMSG_NEXT(h, rest)) {
      if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) return all;
    }
  }
}

class Peers : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    if (!ckpt::kernel_has("nf_tables") || !ckpt::kernel_has("TCP_REPAIR")) GTEST_SKIP() << "without nf_tables or TCP_REPAIR";
    server_ = std::make_unique<CheckProgram>("echo_server", directory_.path());
    ASSERT_TRUE(server_->wait_ready());
    std::istringstream ports(read_file(server_->path("ports")));
    for (int port; ports >> port;) {
      for (int i = 0; i < 2; ++i) clients_.push_back(connected_to(clients_.size() < 2 ? AF_INET : AF_INET6, port));
    }
  }

  static UniqueFd connected_to(int domain, int port) {
    UniqueFd fd(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in four = {};
    four.sin_family = AF_INET;
    four.sin_port = htons(static_cast<in_port_t>(port));
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_in6 six = {};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(static_cast<in_port_t>(port));
    six.sin6_addr = in6addr_loopback;
    const bool is_four = domain == AF_INET;
    const auto* address = is_four ? reinterpret_cast<const sockaddr*>(&four) : reinterpret_cast<const sockaddr*>(&six);
    EXPECT_EQ(connect(fd.get(), address, is_four ? sizeof four : sizeof six), 0) << strerror(errno);
    return fd;
  }

  void say(const std::string& text) {
    for (const UniqueFd& client : clients_) {
      EXPECT_EQ(send(client.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())) << strerror(errno);
    }
  }
  void expect_echo(const std::string& text) {
    for (const UniqueFd& client : clients_) {
      std::string got;
      while (got.size() < text.size()) {
        pollfd state = {client.get(), POLLIN, 0};
        char buffer[256];
        const ssize_t n = poll(&state, 1, 60'000) == 1 ? recv(client.get(), buffer, text.size() - got.size(), 0) : -2;
        ASSERT_GT(n, 0) << "after '" << got << "': " << (n == -2 ? "nothing comes" : n == 0 ? "the end" : strerror(errno));
        got.append(buffer, static_cast<size_t>(n));
      }
      EXPECT_EQ(got, text);
    }
  }
  void expect_silence() {
    for (const UniqueFd& client : clients_) {
      pollfd state = {client.get(), POLLIN | POLLRDHUP, 0};
      EXPECT_EQ(poll(&state, 1, 0), 0) << "the peer hears of it: " << state.revents;
    }
  }
  std::string image() const { return std::to_string(server_->pid()); }
  bool is_held() const { return nft_tables().find("ckptfs-" + image() + "-") != std::string::npos; }

  Mount mount_;
  TemporaryDirectory directory_, scratch_;
  std::unique_ptr<CheckProgram> server_;
  std::vector<UniqueFd> clients_;
};

TEST_F(Peers, live_on_while_the_program_is_away) {
  say("one");
  expect_echo("one");
  const Outcome outcome = mount_.command(image() + " exit");
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  ASSERT_TRUE(server_->wait_end());
  EXPECT_TRUE(is_held());
  say("two");  // into the void
  expect_silence();
  ASSERT_TRUE(archive(mount_, image(), scratch_.path()));
  ASSERT_EQ(resume(mount_, scratch_.path() + "/" + image()), "");
  server_->resumed();
  EXPECT_FALSE(is_held());
  expect_echo("two");
  say("three");
  expect_echo("three");
  clients_.push_back(connected_to(AF_INET, atoi(read_file(server_->path("ports")).c_str())));
  say("and a new one");
  expect_echo("and a new one");
}

TEST_F(Peers, notice_nothing_of_a_checkpoint) {
  for (const char* text : {"one", "two", "three"}) {
    say(text);
    const Outcome outcome = mount_.command(image());
    EXPECT_EQ(outcome.error, 0) << outcome.sentence;
    expect_echo(text);
    EXPECT_FALSE(is_held());
  }
}

TEST_F(Peers, are_lost_where_the_program_is_killed) {
  ASSERT_EQ(mount_.command(image()).error, 0);
  server_->kill_and_reap();
  for (const UniqueFd& client : clients_) {
    pollfd state = {client.get(), POLLIN, 0};
    char c;
    EXPECT_EQ(poll(&state, 1, 60'000), 1);
    EXPECT_EQ(recv(client.get(), &c, 1, 0), 0);
  }
  // What is resumed hears of it as soon as it says something; new ones are served.
  const int port = atoi(read_file(server_->path("ports")).c_str());
  clients_.clear();
  ASSERT_EQ(mount_.command("restore " + image()).error, 0) << read_file(mount_.path("ctl"));
  server_->resumed();
  clients_.push_back(connected_to(AF_INET, port));
  say("anew");
  expect_echo("anew");
}

TEST_F(Peers, are_held_up_as_long_as_there_is_an_image) {
  ASSERT_EQ(mount_.command(image() + " exit").error, 0);
  ASSERT_TRUE(server_->wait_end());
  const std::string images = mount_.path("images/");
  ASSERT_EQ(run({"cp", "-r", images + image(), images + "copy"}).status, 0);
  EXPECT_EQ(run({"rm", "-r", images + image()}).status, 0);
  EXPECT_TRUE(is_held()) << "the copy may be resumed";
  say("into the void");
  expect_silence();
  EXPECT_EQ(mount_.command("delete copy").error, 0);
  EXPECT_FALSE(is_held());
  for (const UniqueFd& client : clients_) {
    pollfd state = {client.get(), POLLIN, 0};
    char c;
    EXPECT_EQ(poll(&state, 1, 60'000), 1) << "what is sent again is not answered";
    EXPECT_EQ(recv(client.get(), &c, 1, 0), -1);
    EXPECT_EQ(errno, ECONNRESET);
  }
}

TEST_F(Peers, of_a_connection_that_somebody_else_has_too_refuse_the_end) {
  say("before");
  expect_echo("before");
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, server_->pid(), 0)));
  UniqueFd theirs;
  for (int fd = 3; fd < 20 && !theirs; ++fd) {
    UniqueFd one(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
    sockaddr_storage peer;
    socklen_t size = sizeof peer;
    if (one && getpeername(one.get(), reinterpret_cast<sockaddr*>(&peer), &size) == 0) theirs = std::move(one);
  }
  ASSERT_TRUE(theirs) << "no connection found";
  const Outcome outcome = mount_.command(image() + " exit");
  EXPECT_EQ(outcome.error, EOPNOTSUPP);
  EXPECT_NE(outcome.sentence.find("that process " + std::to_string(getpid()) + " has too"), std::string::npos) << outcome.sentence;
  EXPECT_FALSE(is_held());
  say("after");
  expect_echo("after");
}

}  // namespace
}  // namespace ckpt_test
