// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/*
 * SIGCKPT and SIGCKPTEXIT: real-time signals whose default action is to be checkpointed. A program that catches, ignores,
 * blocks or waits for them meets ordinary signals.
 *
 * The kernel has two places that act on a default action. The sender starts the end of the whole process as soon as it
 * has queued a signal that will be fatal: there the action looks like SIG_IGN to it, for the moment. The receiver takes
 * the signal off its queue: there it is told that there was none, and the process is checkpointed on its way back to
 * user mode.
 */
#include <linux/cred.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "compat.h"
#include "internal.h"

static int sigckpt = 62;
module_param(sigckpt, int, 0444);
MODULE_PARM_DESC(sigckpt, "number of SIGCKPT");
static int sigckptexit = 63;
module_param(sigckptexit, int, 0444);
MODULE_PARM_DESC(sigckptexit, "number of SIGCKPTEXIT");
static int group = -1;
module_param(group, int, 0644);
MODULE_PARM_DESC(group, "only processes of this group, and root's, are checkpointed by a signal (-1: everybody's)");

/* Processes that are to end by the signal after all. */
struct ending {
	struct list_head link;
	struct pid *pid;
};
static DEFINE_RAW_SPINLOCK(ending_lock);	/* below the siglock */
static LIST_HEAD(endings);

static bool is_ending(struct task_struct *task)
{
	struct ending *ending;
	unsigned long flags;
	bool found = false;

	raw_spin_lock_irqsave(&ending_lock, flags);
	list_for_each_entry(ending, &endings, link)
		found |= ending->pid == task_tgid(task);
	raw_spin_unlock_irqrestore(&ending_lock, flags);
	return found;
}

static bool is_ours(int sig)
{
	return sig == sigckpt || sig == sigckptexit;
}

static bool has_default_action(struct task_struct *task, int sig)
{
	return task->sighand->action[sig - 1].sa.sa_handler == SIG_DFL;
}

void ckpt_end_process(struct pid *pid, int sig)
{
	struct ending *ending = kmalloc(sizeof(*ending), GFP_KERNEL), *old, *next;
	unsigned long flags;
	LIST_HEAD(gone);

	if (!ending)
		return;
	ending->pid = get_pid(pid);
	raw_spin_lock_irqsave(&ending_lock, flags);
	list_for_each_entry_safe(old, next, &endings, link)
		if (!pid_task(old->pid, PIDTYPE_PID))
			list_move(&old->link, &gone);
	list_add(&ending->link, &endings);
	raw_spin_unlock_irqrestore(&ending_lock, flags);
	list_for_each_entry_safe(old, next, &gone, link) {
		put_pid(old->pid);
		kfree(old);
	}
	/* It is stopped, and so does not act on it before it is continued; then, before anything else. */
	kill_pid(pid, sig, 1);
	kill_pid(pid, SIGCONT, 1);
}

/* ---- the sender's side ---- */

static ckpt_complete_signal_t complete_signal_for_us;
static struct ckpt_hook complete_hook = { .symbol = CKPT_COMPLETE_SIGNAL, .replacement = complete_signal_for_us };

static void complete_signal_for_us(int sig, struct task_struct *task, enum pid_type type)
{
	ckpt_complete_signal_t *const original = complete_hook.original;
	struct k_sigaction *action;

	if (likely(!is_ours(sig)) || !has_default_action(task, sig) || (task->flags & PF_KTHREAD) || is_ending(task)) {
		original(sig, task, type);
		return;
	}
	action = &task->sighand->action[sig - 1];
	action->sa.sa_handler = SIG_IGN;
	original(sig, task, type);
	action->sa.sa_handler = SIG_DFL;
}

/* ---- the receiver's side ---- */

struct action_work {
	struct callback_head head;
	int sig;
};

/* The image of a set-uid program, or of one that hides its memory, is not its user's to have. */
static const char *refusal(void)
{
	const struct cred *cred = current_cred();
	struct mm_struct *mm = current->mm;

	if (uid_eq(cred->uid, GLOBAL_ROOT_UID) && uid_eq(cred->euid, GLOBAL_ROOT_UID))
		return NULL;
	if (!uid_eq(cred->uid, cred->euid) || !uid_eq(cred->uid, cred->suid) || !gid_eq(cred->gid, cred->egid) ||
	    !gid_eq(cred->gid, cred->sgid))
		return "it has changed its user";
	if (!mm || get_dumpable(mm) != SUID_DUMP_USER)
		return "it is not dumpable";
	if (group >= 0 && !in_group_p(make_kgid(&init_user_ns, group)))
		return "its user is not in the group";
	return NULL;
}

static void take_action(struct callback_head *head)
{
	struct action_work *work = container_of(head, struct action_work, head);
	const int sig = work->sig;
	const char *why = refusal();

	kfree(work);
	if (!why) {
		switch (ckpt_request(sig == sigckptexit, sig)) {
		case 0:
			break;
		case -ENODEV:
			why = "no ckptfs is mounted that serves /dev/ckpt";
			break;
		default:
			why = "out of memory";
		}
	}
	if (why)
		pr_notice_ratelimited("%d: signal %d is ignored: %s\n", task_tgid_nr(current), sig, why);
	module_put(THIS_MODULE);
}

static void plan_action(int sig)
{
	struct action_work *work = kzalloc(sizeof(*work), GFP_ATOMIC);

	if (!work || !try_module_get(THIS_MODULE)) {
		kfree(work);
		return;
	}
	work->sig = sig;
	init_task_work(&work->head, take_action);
	if (ckpt_task_work_add(current, &work->head, TWA_RESUME)) {
		kfree(work);
		module_put(THIS_MODULE);
	}
}

static ckpt_dequeue_signal_t dequeue_signal_for_us;
static struct ckpt_hook dequeue_hook = { .symbol = CKPT_DEQUEUE_SIGNAL, .replacement = dequeue_signal_for_us };

static int dequeue_signal_for_us(struct task_struct *task, sigset_t *mask, kernel_siginfo_t *info, enum pid_type *type)
{
	ckpt_dequeue_signal_t *const original = dequeue_hook.original;
	const int sig = original(task, mask, info, type);

	if (likely(!is_ours(sig)) || task != current || mask != &current->blocked || !has_default_action(current, sig) ||
	    is_ending(current))
		return sig;
	/* Whatever fails: it is never the end of the process. */
	plan_action(sig);
	return 0;
}

int ckpt_signals_init(void)
{
	int error;

	if (sigckpt < 34 || sigckpt > SIGRTMAX || sigckptexit < 34 || sigckptexit > SIGRTMAX || sigckpt == sigckptexit) {
		pr_err("sigckpt and sigckptexit must be two real-time signals from 34 to %d\n", SIGRTMAX);
		return -EINVAL;
	}
	/* The receiver's side must be there before the sender's lets a signal live. */
	error = ckpt_hook(&dequeue_hook);
	if (error)
		return error;
	error = ckpt_hook(&complete_hook);
	if (error)
		ckpt_unhook(&dequeue_hook);
	return error;
}

void ckpt_signals_exit(void)
{
	struct ending *ending, *next;

	ckpt_unhook(&complete_hook);
	ckpt_unhook(&dequeue_hook);
	/* The last work may still be on its way out of our text. */
	synchronize_rcu_tasks();
	list_for_each_entry_safe(ending, next, &endings, link) {
		put_pid(ending->pid);
		kfree(ending);
	}
}
