// Names of unix sockets: as addresses, as files, and how a new socket gets the name of the old one.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include "engine/kinds/kind.h"
#include "engine/kinds/unix_record.h"

namespace ckpt {

/// The name in an address of `size` bytes as the kernel tells it.
UnixName name_from(const sockaddr_un& address, socklen_t size);
/// Fills in an address and returns its size.
socklen_t address_of(const UnixName& name, sockaddr_un& out);

/// The file that the socket of an inode is bound to, if it is still there under its name as the process sees it.
std::optional<SocketFile> find_socket_file(const CaptureContext& ctx, const UnixName& name,
                                           const std::pair<dev_t, uint32_t>& file);

/// Binds a socket of ours to its old name. With `file`, below the process's root and, where the path is relative, in its
/// working directory, with the rights of the caller; a file of a socket that nobody has any more is replaced, and ctx.traces
/// take a new one away. Without, the name leads nowhere, as after unlink(2); that needs CAP_SYS_ADMIN. Returns an O_PATH
/// descriptor of the file, none for an abstract name. Throws Error: EADDRINUSE where somebody else has the name.
UniqueFd bind_again(const RestoreContext& ctx, int fd, const UnixName& name, const std::optional<SocketFile>& file,
                    const std::string& where);

}  // namespace ckpt
