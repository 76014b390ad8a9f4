/*
 * What the parts of libckpt share. No allocation and no stdio: all of it may run in a signal handler. Functions return 0
 * or a descriptor, or -1 with errno.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CKPT_INTERNAL_H
#define CKPT_INTERNAL_H

#include <limits.h>
#include <stdint.h>

/* The mount point: $CKPT_MOUNT, else the first ckptfs in /proc/self/mountinfo. ENODEV where there is none. */
int ckpt_find_mount(char mount[PATH_MAX]);

/* Writes one command to the mount's ctl: its error is that of the command. */
int ckpt_command(const char *mount, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Makes the mount's images/NAME, to be filled, and opens it. */
int ckpt_make_image(const char *mount, const char *name);

/* Removes a directory of images/ that was made so and has been emptied. */
void ckpt_remove_image(const char *mount, const char *name);

/* Copies the content of one directory into another, which must not have it yet (EEXIST), with everything below. */
int ckpt_copy_tree(int from, int to);

/* Removes everything in a directory. */
int ckpt_empty_directory(int dir);

/* When the calling process was started, in clock ticks since the boot; 0 where /proc does not tell. */
uint64_t ckpt_start_time(void);

/* A name for an image that is to live for the time of one call. */
#define CKPT_TEMPORARY_NAME_MAX 64
void ckpt_temporary_name(char name[CKPT_TEMPORARY_NAME_MAX]);

#endif
