/*
 * An image from one directory into another.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* Closes without losing the errno of what failed before. */
static int close_after(int fd, int result) {
  const int error = errno;
  if (close(fd) != 0 && result == 0) return -1;
  errno = error;
  return result;
}

static int write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    data += n;
    size -= (size_t)n;
  }
  return 0;
}

static int copy_by_reading(int from, int to) {
  char buffer[16384];
  for (;;) {
    const ssize_t n = read(from, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return (int)n;
    if (write_all(to, buffer, (size_t)n) != 0) return -1;
  }
}

static int copy_content(int from, int to) {
  for (;;) {
    /* Within one mount no byte moves; where it cannot be done, nothing has been taken yet. */
    const ssize_t n = copy_file_range(from, NULL, to, NULL, 1 << 30, 0);
    if (n == 0) return copy_by_reading(from, to);
    if (n > 0 || errno == EINTR) continue;
    if (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) return copy_by_reading(from, to);
    return -1;
  }
}

static int copy_file(int from_dir, int to_dir, const char *name) {
  const int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (from < 0) return -1;
  const int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (to < 0) return close_after(from, -1);
  /* The last close of an image is what completes it: its error counts. */
  return close_after(from, close_after(to, copy_content(from, to)));
}

static int copy_link(int from_dir, int to_dir, const char *name) {
  char target[PATH_MAX];
  const ssize_t length = readlinkat(from_dir, name, target, sizeof target - 1);
  if (length < 0) return -1;
  target[length] = 0;
  return symlinkat(target, to_dir, name);
}

static int copy_directory(int from_dir, int to_dir, const char *name) {
  if (mkdirat(to_dir, name, 0700) != 0) return -1;
  const int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (from < 0) return -1;
  const int to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (to < 0) return close_after(from, -1);
  return close_after(from, close_after(to, ckpt_copy_tree(from, to)));
}

/* Calls `act` for each entry of `dir`, until one fails. */
static int for_each_entry(int dir, int other, int (*act)(int dir, int other, const char *name)) {
  char buffer[4096] __attribute__((aligned(__alignof__(struct dirent64))));
  if (lseek(dir, 0, SEEK_SET) < 0) return -1;
  for (;;) {
    /* readdir(3) allocates. */
    const long n = syscall(SYS_getdents64, dir, buffer, sizeof buffer);
    if (n <= 0) return (int)n;
    for (long at = 0; at < n;) {
      const struct dirent64 *entry = (const struct dirent64 *)(buffer + at);
      at += entry->d_reclen;
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      if (act(dir, other, entry->d_name) != 0) return -1;
    }
  }
}

static int copy_entry(int from, int to, const char *name) {
  struct stat st;
  if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return -1;
  if (S_ISDIR(st.st_mode)) return copy_directory(from, to, name);
  if (S_ISLNK(st.st_mode)) return copy_link(from, to, name);
  if (S_ISREG(st.st_mode)) return copy_file(from, to, name);
  errno = EINVAL; /* nothing else is part of an image */
  return -1;
}

int ckpt_copy_tree(int from, int to) { return for_each_entry(from, to, copy_entry); }

static int remove_entry(int dir, int unused, const char *name) {
  (void)unused;
  if (unlinkat(dir, name, 0) == 0) return 0;
  if (errno != EISDIR) return -1;
  const int below = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (below < 0) return -1;
  if (close_after(below, ckpt_empty_directory(below)) != 0) return -1;
  return unlinkat(dir, name, AT_REMOVEDIR);
}

int ckpt_empty_directory(int dir) { return for_each_entry(dir, -1, remove_entry); }
