// A request that every netlink socket of routing answers.
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "selfcheck.h"

namespace selfcheck {

/// RTM_GETLINK of one network interface, or with NLM_F_DUMP of all.
inline void ask_for_links(int fd, int index, int flags, uint32_t sequence) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request = {};
  request.header = {sizeof request, RTM_GETLINK, static_cast<uint16_t>(NLM_F_REQUEST | flags), sequence, 0};
  request.link.ifi_index = index;
  must(send(fd, &request, sizeof request, 0), "send");
}

}  // namespace selfcheck
