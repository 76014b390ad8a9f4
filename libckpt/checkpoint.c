/*
 * ckpt_checkpoint: the caller's own process.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "ckpt.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "internal.h"

static const struct {
  int flag;
  const char *word;
} kWords[] = {
    {CKPT_EXIT, " exit"},
    {CKPT_STOP, " stop"},
    {CKPT_CPU, " cpu"},
    {CKPT_NO_SOCKETS, " no_sockets"},
    {CKPT_NO_PGRP_TTYS, " no_pgrp_ttys"},
    {CKPT_HOLD_LINKCNT, " hold_linkcnt"},
};

static int words_of(int flags, char words[128]) {
  words[0] = 0;
  for (size_t i = 0; i < sizeof kWords / sizeof kWords[0]; ++i) {
    if (flags & kWords[i].flag) strcat(words, kWords[i].word);
    flags &= ~kWords[i].flag;
  }
  if (flags == 0) return 0;
  errno = EINVAL;
  return -1;
}

/* Whether nobody will answer any more: the daemon is gone. */
static int is_abandoned(const char *mount) {
  char path[PATH_MAX + 8];
  snprintf(path, sizeof path, "%s/ctl", mount);
  return access(path, F_OK) != 0;
}

/*
 * Until ckptfs, or whoever resumes the image, has written the word. No descriptor is open meanwhile, so that none is in
 * the image. An image that somebody else took at this moment knows of no word: the process's age tells it then.
 */
static long long wait_for_answer(const char *mount, atomic_llong *word, uint64_t started) {
  for (int turn = 1;; ++turn) {
    const long long answer = atomic_load(word);
    if (answer != CKPT_PENDING) return answer;
    const struct timespec pause = {0, turn < 50 ? 500000 : 5000000};
    nanosleep(&pause, NULL);
    if (turn % 64 != 0) continue;
    if (ckpt_start_time() != started) return CKPT_RETURN;
    /* The answer may have come between the two looks. */
    if (is_abandoned(mount) && atomic_load(word) == CKPT_PENDING) return -EIO;
  }
}

int ckpt_checkpoint(int fd, int flags) {
  char mount[PATH_MAX], words[128], into[32] = "";
  if (words_of(flags, words) != 0) return -1;
  if (fd < -1) {
    errno = EBADF;
    return -1;
  }
  if (fd >= 0) snprintf(into, sizeof into, " into=%d", fd);
  if (ckpt_find_mount(mount) != 0) return -1;
  const uint64_t started = ckpt_start_time();
  atomic_llong word = CKPT_PENDING;
  if (ckpt_command(mount, "%d%s%s answer=%#lx\n", (int)getpid(), words, into, (unsigned long)&word) != 0) return -1;
  const long long answer = wait_for_answer(mount, &word, started);
  if (answer >= 0) return (int)answer;
  errno = (int)-answer;
  return -1;
}
