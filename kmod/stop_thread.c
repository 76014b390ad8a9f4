// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/*
 * A thread that stands still in its own context, on its way back to user mode: a task work makes it note its own state and
 * wait until it is let go. Nobody traces it.
 */
#include <asm/unistd.h>
#include <linux/elf.h>
#include <linux/module.h>
#include <linux/regset.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "stop.h"

static const struct user_regset *find_regset(const struct user_regset_view *view, unsigned int type)
{
	unsigned int i;

	for (i = 0; i < view->n; i++)
		if (view->regsets[i].core_note_type == type)
			return &view->regsets[i];
	return NULL;
}

static int note_state(struct stop_thread *thread)
{
	const struct user_regset_view *view = task_user_regset_view(current);
	const struct user_regset *general = find_regset(view, NT_PRSTATUS), *xstate = find_regset(view, NT_X86_XSTATE);
	int size;

	if (view->e_machine != EM_X86_64 || !general || !xstate)
		return -EOPNOTSUPP;
	size = regset_get(current, general, sizeof(thread->registers), &thread->registers);
	if (size < 0)
		return size;
	size = regset_get_alloc(current, xstate, CKPT_MOST_XSAVE, &thread->xsave);
	if (size < 0)
		return size;
	thread->xsave_size = size;
	thread->signal_mask = (test_restore_sigmask() ? current->saved_sigmask : current->blocked).sig[0];
	return 0;
}

/*
 * Some calls fail with EINTR at any interruption, with a handler or without (signal(7)). They are begun again, unless a handler
 * is to run: it was only we who interrupted them.
 */
static void undo_interruption(struct pt_regs *regs)
{
	if (regs->ax != -EINTR)
		return;
	switch (regs->orig_ax) {
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_semop:
	case __NR_semtimedop:
	case __NR_rt_sigtimedwait:
	case __NR_io_getevents:
	case __NR_io_pgetevents:
	case __NR_accept:
	case __NR_accept4:
	case __NR_recvfrom:
	case __NR_recvmsg:
		regs->ax = -ERESTARTNOHAND;
	}
}

/* False where it is to go on at once. */
static bool stands(struct stop_thread *thread)
{
	struct stop *stop = thread->stop;
	bool good;

	/* The right to stop it was given for this program. */
	if ((current->flags & PF_EXITING) || current->mm != stop->mm)
		return false;
	if (user_64bit_mode(task_pt_regs(current)))
		undo_interruption(task_pt_regs(current));
	thread->error = note_state(thread);
	spin_lock(&stop->lock);
	good = !stop->let_go;
	if (good) {
		thread->state = STANDS;
		stop->asked--;
	}
	spin_unlock(&stop->lock);
	return good;
}

static void stand_still(struct callback_head *head)
{
	struct stop_thread *thread = container_of(head, struct stop_thread, work);
	struct stop *stop = thread->stop;
	const bool stood = stands(thread);

	if (stood) {
		wake_up_all(&stop->changed);
		wait_event_killable(stop->released, READ_ONCE(stop->let_go));
	}
	spin_lock(&stop->lock);
	if (!stood)
		stop->asked--;
	thread->state = GONE;
	if (thread->changed) {
		struct pt_regs *regs = task_pt_regs(current);

		regs->ax = thread->go_on.rax;
		regs->ip = thread->go_on.rip;
		regs->orig_ax = thread->go_on.orig_rax;
	}
	spin_unlock(&stop->lock);
	wake_up_all(&stop->changed);
	ckpt_put_stop(stop);
	module_put(THIS_MODULE);
}

int ckpt_ask_thread(struct stop *stop, struct task_struct *task)
{
	struct stop_thread *thread = kzalloc(sizeof(*thread), GFP_ATOMIC | __GFP_NOWARN);

	if (!thread)
		return -ENOMEM;
	thread->stop = stop;
	thread->task = get_task_struct(task);
	init_task_work(&thread->work, stand_still);
	spin_lock(&stop->lock);
	list_add_tail(&thread->link, &stop->threads);
	stop->asked++;
	spin_unlock(&stop->lock);
	refcount_inc(&stop->users);
	__module_get(THIS_MODULE);
	if (!ckpt_task_work_add(task, &thread->work, TWA_SIGNAL))
		return 0;
	/* It ends. */
	spin_lock(&stop->lock);
	thread->state = GONE;
	stop->asked--;
	spin_unlock(&stop->lock);
	ckpt_put_stop(stop);
	module_put(THIS_MODULE);
	return 0;
}
