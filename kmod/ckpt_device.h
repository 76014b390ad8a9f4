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

#define CKPT_DEVICE_VERSION 4

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

/*
 * What a thread would learn of itself by system calls. `tid` is the caller's to fill in, all else is zero before. EPERM and
 * ESRCH as above.
 */
#define CKPT_SPECULATIONS 3
struct ckpt_thread {
	__s32 tid;		/* in the caller's pid namespace */
	__u32 flags;		/* CKPT_THREAD_ */
	__u64 clear_child_tid;	/* set_tid_address(2) */
	__u64 altstack;		/* sigaltstack(2); the flags without SS_ONSTACK */
	__u64 altstack_size;
	__u32 altstack_flags;
	__s32 parent_death_signal;
	__u64 timer_slack_ns;
	__u64 xfeatures_permitted;	/* ARCH_GET_XCOMP_PERM, with those of the kernel itself */
	__u32 securebits;
	__s32 speculation[CKPT_SPECULATIONS];	/* as PR_GET_SPECULATION_CTRL answers, a negated errno too */
	__s32 thread_keyring;	/* serial numbers, keyctl(2); 0 for none; a negated errno for one that is revoked or expired */
	__s32 process_keyring;
	__s32 session_keyring;	/* 0 too for its user's, which one without gets at the first access */
	__u32 reserved;
};
#define CKPT_THREAD_NO_TSC	0x1	/* PR_SET_TSC */
#define CKPT_THREAD_NO_CPUID	0x2	/* ARCH_SET_CPUID */
#define CKPT_IOC_THREAD _IOWR(0xCC, 3, struct ckpt_thread)

/*
 * The same of a process. `pid`, `timers` and `capacity` are the caller's to fill in, all else is zero before. ENOSPC where
 * there are more timers than `capacity`, which is at most 65536; EAGAIN where the process is at one of them just now.
 */
struct ckpt_timer_value {
	__u64 value_ns;		/* time left, 0: not armed */
	__u64 interval_ns;
};
struct ckpt_timer {
	__s32 id;		/* timer_create(2) */
	__u32 reserved;
	__u64 value_ns;
	__u64 interval_ns;
};
struct ckpt_action {		/* as the system call rt_sigaction has it */
	__u64 handler;
	__u64 flags;
	__u64 restorer;
	__u64 mask;
};
struct ckpt_process {
	__s32 pid;		/* in the caller's pid namespace */
	__u32 flags;		/* CKPT_PROCESS_ */
	__u64 brk;
	__u64 timers;		/* to: struct ckpt_timer[capacity] */
	__u32 capacity;
	__u32 count;		/* out */
	__u32 dumpable;		/* PR_GET_DUMPABLE */
	__u32 protection_keys;	/* pkeys(7) that are allocated, a bit each */
	struct ckpt_timer_value intervals[3];	/* setitimer(2): ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF */
	struct ckpt_action actions[64];		/* of signals 1 to 64 */
};
#define CKPT_PROCESS_SUBREAPER		0x1
#define CKPT_PROCESS_THP_DISABLED	0x2
#define CKPT_PROCESS_LOCK_FUTURE	0x4	/* mlockall(2) */
#define CKPT_PROCESS_LOCK_ON_FAULT	0x8
#define CKPT_IOC_PROCESS _IOWR(0xCC, 4, struct ckpt_process)

/*
 * All threads of a process asked to stand still: a descriptor. Each does so on its way back to user mode, its system call, if
 * any, being interrupted as by a signal without a handler; those that fail then with EINTR (signal(7)) are begun again. They go on when the descriptor is closed by the process that has
 * it, whoever else may have inherited it, or by that one's end.
 *
 * EPERM and ESRCH as above; EBUSY of a process with an io_uring; EINVAL of the caller's own.
 */
struct ckpt_stop {
	__s32 pid;		/* in the caller's pid namespace */
	__u32 reserved;
};
#define CKPT_IOC_STOP _IOW(0xCC, 5, struct ckpt_stop)

/*
 * Of a stop: waits until all threads stand still, those born meanwhile too. ETIMEDOUT where one does not within the time;
 * EAGAIN where the process has become another program, or ends; ESRCH where it has ended; EINTR. A thread in a job-control
 * stop, or one that waits in vfork(2), does not come.
 */
struct ckpt_stop_wait {
	__u32 timeout_ms;
	__u32 reserved;
};
#define CKPT_STOP_WAIT _IOW(0xCC, 6, struct ckpt_stop_wait)

/* The threads that stand still. ENOSPC where there are more than `capacity`. */
struct ckpt_stop_threads {
	__u64 tids;		/* to: __s32[capacity], in the caller's pid namespace */
	__u32 capacity;
	__u32 count;		/* out: zero before */
};
#define CKPT_STOP_THREADS _IOWR(0xCC, 7, struct ckpt_stop_threads)

/* Of one of them, the state that ptrace(2) gives. ESRCH where it does not stand still; ENOSPC where the area is larger. */
struct ckpt_thread_state {
	__s32 tid;
	__u32 xsave_size;	/* of the room at `xsave`; out: of the area */
	__u64 xsave;		/* to: the XSAVE area, as NT_X86_XSTATE */
	__u64 registers[27];	/* out, as the fields below: struct user_regs_struct */
	__u64 signal_mask;	/* of one inside sigsuspend(2) and the like, the mask to come back */
	__u64 rseq;		/* 0: none is registered */
	__u32 rseq_size;
	__u32 rseq_signature;
};
#define CKPT_STOP_STATE _IOWR(0xCC, 8, struct ckpt_thread_state)

/* Signals that are queued, oldest first: of a thread, or with `tid` 0 of the process. ENOSPC where there are more. */
struct ckpt_pending {
	__s32 tid;
	__u32 capacity;		/* at most 65536 */
	__u64 infos;		/* to: siginfo_t[capacity], of 128 bytes, as 64-bit programs have it */
	__u32 count;		/* out: zero before */
	__u32 reserved;
};
#define CKPT_STOP_PENDING _IOWR(0xCC, 9, struct ckpt_pending)

/* How a thread that stands still is to go on. */
struct ckpt_go_on {
	__s32 tid;
	__u32 reserved;
	__u64 rax;
	__u64 rip;		/* in user space */
	__u64 orig_rax;
};
#define CKPT_STOP_GO_ON _IOW(0xCC, 10, struct ckpt_go_on)

#endif
