// The table of descriptor kinds: a new kind is one pair of files and one line here.

#include "engine/kinds/chardev.h"
#include "engine/kinds/directory.h"
#include "engine/kinds/epoll.h"
#include "engine/kinds/eventfd.h"
#include "engine/kinds/fifo.h"
#include "engine/kinds/file.h"
#include "engine/kinds/inet_socket.h"
#include "engine/kinds/inotify.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/mqueue.h"
#include "engine/kinds/other.h"
#include "engine/kinds/path_fd.h"
#include "engine/kinds/netlink_socket.h"
#include "engine/kinds/pidfd.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/pty.h"
#include "engine/kinds/self_fd.h"
#include "engine/kinds/signalfd.h"
#include "engine/kinds/timerfd.h"
#include "engine/kinds/tty.h"
#include "engine/kinds/unix_socket.h"
#include "engine/kinds/unnamed_file.h"

namespace ckpt {

const std::vector<const DescriptorKind*>& descriptor_kinds() {
  static const std::vector<const DescriptorKind*> kinds = {
      &path_kind(),  // before all others: an O_PATH descriptor may be of any type of file
      &proc_kind(),  // before regular files and directories
      &mqueue_kind(),  // before all regular files, deleted ones too
      &memfd_kind(),
      &deleted_kind(),
      &file_kind(),
      &directory_kind(),
      &pipe_kind(),
      &fifo_kind(),
      &ptmx_kind(),
      &tty_kind(),
      &unix_socket_kind(),
      &netlink_socket_kind(),
      &inet_socket_kind(),  // every other socket
      &chardev_kind(),
      &eventfd_kind(),
      &timerfd_kind(),
      &signalfd_kind(),
      &epoll_kind(),
      &inotify_kind(),
      &pidfd_kind(),
      &other_kind(),  // matches everything
  };
  return kinds;
}

}  // namespace ckpt
