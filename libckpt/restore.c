/*
 * ckpt_restore: an image becomes a process.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ckpt.h"
#include "internal.h"

static int import_image(const char *mount, const char *name, int from) {
  const int to = ckpt_make_image(mount, name);
  if (to < 0) return -1;
  const int result = ckpt_copy_tree(from, to);
  const int error = errno;
  if (result != 0) ckpt_empty_directory(to);
  close(to);
  if (result != 0) ckpt_remove_image(mount, name);
  errno = error;
  return result;
}

int ckpt_restore(int fd, int flags) {
  char mount[PATH_MAX], name[CKPT_TEMPORARY_NAME_MAX];
  struct stat st;
  if (flags & ~CKPT_STOP) {
    errno = EINVAL;
    return -1;
  }
  if (fstat(fd, &st) != 0) return -1;
  if (!S_ISDIR(st.st_mode)) {
    errno = ENOTDIR;
    return -1;
  }
  if (ckpt_find_mount(mount) != 0) return -1;
  ckpt_temporary_name(name);
  if (import_image(mount, name, fd) != 0) return -1;
  const int result = ckpt_command(mount, "restore %s%s\n", name, flags & CKPT_STOP ? " stopped" : "");
  const int error = errno;
  /* Only its name goes: the process runs, or the caller has his directory. */
  if (ckpt_command(mount, "delete %s\n", name) != 0 && result == 0) return -1;
  errno = error;
  return result == 0 ? flags : -1;
}
