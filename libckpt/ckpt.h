/*
 * libckpt: a program checkpoints itself into a mounted ckptfs, and resumes images. See ckpt_checkpoint(2).
 *
 *     int flags = ckpt_checkpoint(-1, 0);
 *     if (flags < 0) perror("ckpt_checkpoint");
 *     else if (flags & CKPT_RETURN) reopen_what_the_image_does_not_hold();
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CKPT_H
#define CKPT_H

#ifdef __cplusplus
extern "C" {
#endif

/* Flags of both calls, and of what they return. Each is a word of ctl too: ckpt-ctl(5). */
#define CKPT_EXIT         0x01 /* end the process when the image is durable */
#define CKPT_STOP         0x02 /* leave it stopped (by SIGSTOP) */
#define CKPT_CPU          0x04 /* registers and tables without memory */
#define CKPT_NO_SOCKETS   0x08 /* carry on without sockets */
#define CKPT_NO_PGRP_TTYS 0x10 /* carry on without process groups and terminals */
#define CKPT_HOLD_LINKCNT 0x20 /* keep deleted files retrievable */
#define CKPT_RETURN       0x40 /* returned only: this is the resumed process */

/*
 * Signals by which a program can be asked to checkpoint itself: real-time signals that glibc leaves free. For a program
 * that does not catch them they are a checkpoint where the kernel module is loaded, ckpt(4), with these numbers; elsewhere
 * they end it, as any real-time signal does.
 */
#define SIGCKPT     62
#define SIGCKPTEXIT 63

/*
 * Checkpoints the calling process with all its threads. fd: an empty directory that the image is copied into, or -1 for
 * the mount's images/, under the pid as its name. Returns the flags that took effect when the image is durable; in the
 * resumed process those of the resume, CKPT_RETURN among them. -1 with errno on failure: the process runs on. Any thread
 * may call, several at once too, and so may a signal handler.
 */
__attribute__((visibility("default"))) int ckpt_checkpoint(int fd, int flags);

/*
 * Resumes the image in the directory fd, under its old pid and as a child of init. flags: CKPT_STOP or 0. Returns them,
 * or -1 with errno.
 */
__attribute__((visibility("default"))) int ckpt_restore(int fd, int flags);

#ifdef __cplusplus
}
#endif
#endif
