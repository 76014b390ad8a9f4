// A server that sends back what it gets, over IPv4 and IPv6 on the loopback addresses: not a self-checking program, its
// clients are outside. DIR/ports tells where it listens.
#include <vector>

#include "inet.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  std::vector<pollfd> all = {{listen_at(loopback()), POLLIN, 0}};
  std::string ports = std::to_string(ntohs(address_of<sockaddr_in>(all[0].fd, getsockname).sin_port));
  const sockaddr_in6 six = loopback6();
  const int listening = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listening >= 0 && bind(listening, reinterpret_cast<const sockaddr*>(&six), sizeof six) == 0) {
    must(listen(listening, 16), "listen");
    ports += " " + std::to_string(ntohs(address_of<sockaddr_in6>(listening, getsockname).sin6_port));
    all.push_back({listening, POLLIN, 0});
  }
  const size_t servers = all.size();
  write_file("ports", ports.data(), ports.size());
  ready();
  for (;;) {
    must(poll(all.data(), all.size(), -1), "poll");
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i].revents == 0) continue;
      if (i < servers) {
        all.push_back({must(accept(all[i].fd, nullptr, nullptr), "accept"), POLLIN, 0});
        continue;
      }
      char buffer[4096];
      const ssize_t n = recv(all[i].fd, buffer, sizeof buffer, 0);
      if (n <= 0) {  // the end, or a reset
        close(all[i].fd);
        all[i].fd = -1;
      } else {
        send_text(all[i].fd, std::string(buffer, static_cast<size_t>(n)));
      }
    }
  }
}
