/*
 * The mount, and how it is spoken to.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

/* proc(5): blanks and backslashes of a path are octal escapes. */
static void unescape(char *text) {
  char *out = text;
  for (; *text; ++out) {
    if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
      *out = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
      text += 4;
    } else {
      *out = *text++;
    }
  }
  *out = 0;
}

/* 36 35 98:0 / /ckpt rw,noatime shared:1 - fuse.ckptfs /var/lib/ckptfs rw */
static int parse_mount(char *line, char mount[PATH_MAX]) {
  char *type = strstr(line, " - fuse.ckptfs ");
  char *rest = line;
  if (!type) return 0;
  for (int field = 0; field < 4; ++field) {
    rest = strchr(rest, ' ');
    if (!rest) return 0;
    ++rest;
  }
  char *end = strchr(rest, ' ');
  if (!end || (size_t)(end - rest) >= PATH_MAX) return 0;
  *end = 0;
  strcpy(mount, rest);
  unescape(mount);
  return 1;
}

static int search_mounts(int fd, char mount[PATH_MAX]) {
  char line[2 * PATH_MAX];
  size_t have = 0;
  for (;;) {
    const ssize_t n = read(fd, line + have, sizeof line - 1 - have);
    if (n < 0) return -1;
    if (n == 0) break;
    have += (size_t)n;
    line[have] = 0;
    char *begin = line;
    for (char *end; (end = strchr(begin, '\n')); begin = end + 1) {
      *end = 0;
      if (parse_mount(begin, mount)) return 0;
    }
    have -= (size_t)(begin - line);
    memmove(line, begin, have);
    if (have == sizeof line - 1) have = 0; /* longer than any mount of ours */
  }
  errno = ENODEV;
  return -1;
}

int ckpt_find_mount(char mount[PATH_MAX]) {
  const char *chosen = secure_getenv("CKPT_MOUNT");
  if (chosen && *chosen) {
    if (strlen(chosen) >= PATH_MAX) {
      errno = ENAMETOOLONG;
      return -1;
    }
    strcpy(mount, chosen);
    return 0;
  }
  const int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const int result = search_mounts(fd, mount);
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

static int join(char path[PATH_MAX], const char *mount, const char *below, const char *name) {
  const int length = snprintf(path, PATH_MAX, "%s/%s%s", mount, below, name);
  if (length >= 0 && length < PATH_MAX) return 0;
  errno = ENAMETOOLONG;
  return -1;
}

int ckpt_command(const char *mount, const char *format, ...) {
  char path[PATH_MAX], line[512];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof line) {
    errno = EINVAL;
    return -1;
  }
  if (join(path, mount, "ctl", "") != 0) return -1;
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t n = write(fd, line, (size_t)length);
  const int error = errno;
  close(fd);
  errno = error;
  return n < 0 ? -1 : 0;
}

int ckpt_make_image(const char *mount, const char *name) {
  char path[PATH_MAX];
  if (join(path, mount, "images/", name) != 0) return -1;
  if (mkdir(path, 0700) != 0) return -1;
  return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void ckpt_remove_image(const char *mount, const char *name) {
  char path[PATH_MAX];
  if (join(path, mount, "images/", name) == 0) rmdir(path);
}

uint64_t ckpt_start_time(void) {
  char text[1024];
  const int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  /* Field 22; the second is the program's name, in parentheses, with whatever is in it. */
  char *at = strrchr(text, ')');
  for (int field = 2; at && field < 22; ++field) at = strchr(at + 1, ' ');
  return at ? strtoull(at + 1, NULL, 10) : 0;
}

void ckpt_temporary_name(char name[CKPT_TEMPORARY_NAME_MAX]) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  snprintf(name, CKPT_TEMPORARY_NAME_MAX, "libckpt-%d-%d-%lld.%09ld", (int)getpid(), (int)gettid(),
           (long long)now.tv_sec, now.tv_nsec);
}
