/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * /dev/ckpt: between the kernel module and ckptfs. See ckpt(4).
 *
 * Opened for reading and writing, it serves the signals; one file at a time. read(2) gives one request (it waits for it,
 * unless O_NONBLOCK); poll(2) tells that there is one; write(2) of an answer ends it. Whatever is unanswered when the file
 * is closed has failed. Opened for reading alone, by as many as want to, it takes the ioctls only.
 *
 * All structures are the same for 32- and 64-bit programs; fields that are reserved must be zero.
 */
#ifndef CKPT_DEVICE_H
#define CKPT_DEVICE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CKPT_DEVICE_VERSION 2

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

/*
 * A copy-on-write copy of a process's memory as it is now, without a process: a descriptor. The caller sees to it that no
 * thread of the process runs meanwhile. pread(2) of whole pages reads it, the address being the offset; a page that the
 * process has never touched is zeros. Mappings with MADV_DONTFORK are not there, those with MADV_WIPEONFORK are empty,
 * shared ones are still shared. The copy goes with the last descriptor.
 *
 * EPERM without CAP_SYS_PTRACE in the process's user namespace; ESRCH; EBUSY where it uses a userfaultfd; ENOMEM.
 */
struct ckpt_snapshot {
	__s32 pid;		/* in the caller's pid namespace */
	__u32 reserved;
};
#define CKPT_IOC_SNAPSHOT _IOW(0xCC, 1, struct ckpt_snapshot)

/*
 * Of a snapshot: the runs of pages in [start, end) that hold content of the process's own, which is private memory that has
 * been written to, in ascending order, neither touching nor overlapping. As many as fit; then `next` is where to go on, else
 * it is `end`. Addresses are multiples of the page size.
 */
struct ckpt_run {
	__u64 start;
	__u64 end;
};
struct ckpt_runs {
	__u64 start;
	__u64 end;
	__u64 runs;		/* to: struct ckpt_run[capacity] */
	__u32 capacity;
	__u32 count;		/* out, as is `next`: zero before */
	__u64 next;
};
#define CKPT_SNAPSHOT_RUNS _IOWR(0xCC, 2, struct ckpt_runs)

#endif
