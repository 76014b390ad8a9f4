/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * /dev/ckpt: between the kernel module and the ckptfs that serves it. See ckpt(4).
 *
 * One open file at a time. read(2) gives one request (it waits for it, unless O_NONBLOCK); poll(2) tells that there is
 * one; write(2) of an answer ends it. Whatever is unanswered when the file is closed has failed. All structures are the
 * same for 32- and 64-bit programs; fields that are reserved must be zero.
 */
#ifndef CKPT_DEVICE_H
#define CKPT_DEVICE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CKPT_DEVICE_VERSION 1

/* A process that has received a signal whose default action is to be checkpointed. It waits for the answer. */
struct ckpt_request {
	__u64 id;
	__s32 pid;		/* of the process, in the initial pid namespace */
	__u32 uid;		/* its real ids, in the initial user namespace */
	__u32 gid;
	__u32 flags;		/* CKPT_REQUEST_EXIT */
	__u64 reserved;
};

#define CKPT_REQUEST_EXIT 0x1	/* SIGCKPTEXIT: to be left stopped; the answer ends it by the signal */

struct ckpt_answer {
	__u64 id;
	__s32 error;		/* 0, or an errno: the process goes on */
	__u32 reserved;
};

/* Fails with EINVAL from a module of another version. */
#define CKPT_IOC_VERSION _IOW(0xCC, 0, __u32)

#endif
