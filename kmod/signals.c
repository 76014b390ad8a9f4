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
#include <linux/cpumask.h>
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

struct sender {
	struct k_sigaction *action;
};

static int before_complete(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct sender *sender = (struct sender *)instance->data;
	const int sig = ckpt_complete_signal_number(regs);
	struct task_struct *task;

	if (!is_ours(sig))
		return 1;
	task = ckpt_complete_signal_task(regs);
	if (!has_default_action(task, sig) || (task->flags & PF_KTHREAD) || is_ending(task))
		return 1;
	sender->action = &task->sighand->action[sig - 1];
	sender->action->sa.sa_handler = SIG_IGN;
	return 0;
}

static int after_complete(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	((struct sender *)instance->data)->action->sa.sa_handler = SIG_DFL;
	return 0;
}

static struct kretprobe complete_probe = {
	.kp.symbol_name = CKPT_COMPLETE_SIGNAL,
	.entry_handler = before_complete,
	.handler = after_complete,
	.data_size = sizeof(struct sender),
};

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

static bool is_pending(int sig)
{
	return sigismember(&current->pending.signal, sig) || sigismember(&current->signal->shared_pending.signal, sig);
}

static int before_dequeue(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	/* Every other signal is spared the way back through the probe. */
	if (!is_pending(sigckpt) && !is_pending(sigckptexit))
		return 1;
	return ckpt_dequeue_is_delivery(regs) ? 0 : 1;
}

static int after_dequeue(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const int sig = (int)regs_return_value(regs);
	struct action_work *work;

	if (!is_ours(sig) || !has_default_action(current, sig) || is_ending(current))
		return 0;
	/* Whatever fails from here on: it is never the end of the process. */
	regs_set_return_value(regs, 0);
	work = kzalloc(sizeof(*work), GFP_ATOMIC);
	if (!work || !try_module_get(THIS_MODULE)) {
		kfree(work);
		return 0;
	}
	work->sig = sig;
	init_task_work(&work->head, take_action);
	if (ckpt_task_work_add(current, &work->head, TWA_RESUME)) {
		kfree(work);
		module_put(THIS_MODULE);
	}
	return 0;
}

static struct kretprobe dequeue_probe = {
	.kp.symbol_name = CKPT_DEQUEUE_SIGNAL,
	.entry_handler = before_dequeue,
	.handler = after_dequeue,
};

int ckpt_signals_init(void)
{
	struct kretprobe *probes[] = { &complete_probe, &dequeue_probe };
	int i, error;

	if (sigckpt < 34 || sigckpt > SIGRTMAX || sigckptexit < 34 || sigckptexit > SIGRTMAX || sigckpt == sigckptexit) {
		pr_err("sigckpt and sigckptexit must be two real-time signals from 34 to %d\n", SIGRTMAX);
		return -EINVAL;
	}
	for (i = 0; i < 2; i++) {
		/* The receiver's side must be there before the sender's lets a signal live. */
		struct kretprobe *probe = probes[1 - i];

		/* One that is missed ends the process. Both functions run under a spin lock, so at most one a CPU. */
		probe->maxactive = 2 * num_possible_cpus() + 16;
		error = register_kretprobe(probe);
		if (error) {
			pr_err("%s cannot be probed: error %d\n", probe->kp.symbol_name, -error);
			if (i == 1)
				unregister_kretprobe(&dequeue_probe);
			return error;
		}
	}
	return 0;
}

void ckpt_signals_exit(void)
{
	struct ending *ending, *next;

	unregister_kretprobe(&complete_probe);
	unregister_kretprobe(&dequeue_probe);
	/* The last work may still be on its way out of our text. */
	synchronize_rcu_tasks();
	list_for_each_entry_safe(ending, next, &endings, link) {
		put_pid(ending->pid);
		kfree(ending);
	}
}
