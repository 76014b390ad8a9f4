// redis-server with 200,000 keys, under load: its clients, which are outside, lose no request, whether it goes on or comes back
// from an archive.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "engine/base/fd.h"
#include "engine/kernel.h"
#include "program.h"

namespace ckpt_test {
namespace {

std::string free_port() {
  const ckpt::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return std::to_string(ntohs(address.sin_port));
}

class Redis : public testing::Test {
 protected:
  static constexpr int kClients = 20;

  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    if (!ckpt::kernel_has("nf_tables") || !ckpt::kernel_has("TCP_REPAIR")) GTEST_SKIP() << "without nf_tables or TCP_REPAIR";
    // The program of redis-tools is the server's too, and goes by its name.
    server_ = bash(directory_, "exec -a redis-server redis-check-rdb --bind 127.0.0.1 --port " + port_ +
                                   " --save '' --enable-debug-command yes");
    ASSERT_TRUE(wait_until([&] { return ask("ping") == "PONG\n" || !server_->running(); }));
    ASSERT_EQ(ask("debug populate 200000"), "OK\n") << read_file(directory_.path() + "/stdout");
    load_ = bash(load_directory_, "redis-benchmark -q -c " + std::to_string(kClients) + " -n 300000 -t set -p " + port_ +
                                      " > out 2>&1; echo $? > status");
    // And who asks.
    const std::string all = "connected_clients:" + std::to_string(kClients + 1) + "\r";
    ASSERT_TRUE(wait_until([&] { return ask("info clients").find(all) != std::string::npos || !load_->running(); }));
  }
  static std::unique_ptr<Program> bash(const TemporaryDirectory& directory, const std::string& command) {
    return std::make_unique<Program>(std::vector<std::string>{"bash", "-c", command}, directory.path(), true);
  }
  std::string ask(const std::string& command) const {
    return run({"sh", "-c", "redis-cli -p " + port_ + " " + command}).output;
  }
  void expect_all_is_well() {
    EXPECT_TRUE(load_->wait_end(std::chrono::seconds(120)));
    EXPECT_EQ(read_file(load_directory_.path() + "/status"), "0\n") << read_file(load_directory_.path() + "/out");
    // One key of the load.
    EXPECT_EQ(ask("dbsize"), "200001\n");
    EXPECT_EQ(ask("get key:199999"), "value:199999\n");
    ask("shutdown nosave");
    EXPECT_TRUE(server_->wait_end());
  }
  std::string image() const { return std::to_string(server_->pid()); }

  Mount mount_;
  TemporaryDirectory directory_, load_directory_, scratch_;
  const std::string port_ = free_port();
  std::unique_ptr<Program> server_, load_;
};

TEST_F(Redis, goes_on_under_load) {
  for (int i = 0; i < 5; ++i) {
    const Outcome outcome = mount_.command(image());
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  }
  EXPECT_TRUE(load_->running()) << "there was no load";
  expect_all_is_well();
}

TEST_F(Redis, comes_back_to_its_clients) {
  for (int i = 0; i < 2; ++i) {
    const std::string archive_directory = scratch_.path() + "/" + std::to_string(i);
    const Outcome outcome = mount_.command(image() + " exit");
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    EXPECT_TRUE(server_->wait_end());
    EXPECT_TRUE(load_->running()) << "there was no load";
    EXPECT_EQ(run({"mkdir", archive_directory}).status, 0);
    ASSERT_TRUE(archive(mount_, image(), archive_directory));
    ASSERT_EQ(resume(mount_, archive_directory + "/" + image()), "");
    server_->resumed();
  }
  expect_all_is_well();
}

}  // namespace
}  // namespace ckpt_test
