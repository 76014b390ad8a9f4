// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/*
 * Threads that stand still in their own context, on their way back to user mode: a task work makes each note its own state
 * and wait until it is let go. Nobody traces them.
 */
#include <asm/unistd.h>
#include <linux/elf.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/regset.h>
#include <linux/rseq.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "ckpt_device.h"
#include "compat.h"
#include "internal.h"

#define MOST_PENDING 65536	/* signals that one call tells of */
#define MOST_XSAVE (64 << 10)

/* Lives as long as its descriptor, and as a work of it that has not run. */
struct stop {
	refcount_t users;
	struct pid *pid;
	struct mm_struct *mm;		/* of the program that may be stopped; only compared */
	struct pid *owner;		/* the process whose close(2) ends the stop */
	struct mutex asking;
	spinlock_t lock;		/* guards what follows */
	struct list_head threads;
	unsigned int asked;		/* of which we do not know yet */
	bool let_go;
	wait_queue_head_t changed;	/* for who waits for the threads */
	wait_queue_head_t released;	/* for the threads */
};

enum state { ASKED, STANDS, GONE };

struct thread {
	struct callback_head work;
	struct list_head link;
	struct stop *stop;
	struct task_struct *task;
	enum state state;
	/* Noted by the thread itself before it stands. */
	int error;
	struct user_regs_struct registers;
	void *xsave;
	unsigned int xsave_size;
	u64 signal_mask;
	/* How it is to go on, where `changed` is. */
	bool changed;
	struct ckpt_go_on go_on;
};

static void put_stop(struct stop *stop)
{
	struct thread *thread, *next;

	if (!refcount_dec_and_test(&stop->users))
		return;
	list_for_each_entry_safe(thread, next, &stop->threads, link) {
		put_task_struct(thread->task);
		kfree(thread->xsave);
		kfree(thread);
	}
	mmdrop(stop->mm);
	put_pid(stop->pid);
	put_pid(stop->owner);
	kfree(stop);
}

static void let_go(struct stop *stop)
{
	spin_lock(&stop->lock);
	stop->let_go = true;
	spin_unlock(&stop->lock);
	wake_up_all(&stop->released);
}

/* ---- the thread's side ---- */

static const struct user_regset *find_regset(const struct user_regset_view *view, unsigned int type)
{
	unsigned int i;

	for (i = 0; i < view->n; i++)
		if (view->regsets[i].core_note_type == type)
			return &view->regsets[i];
	return NULL;
}

static int note_state(struct thread *thread)
{
	const struct user_regset_view *view = task_user_regset_view(current);
	const struct user_regset *general = find_regset(view, NT_PRSTATUS), *xstate = find_regset(view, NT_X86_XSTATE);
	int size;

	if (view->e_machine != EM_X86_64 || !general || !xstate)
		return -EOPNOTSUPP;
	size = regset_get(current, general, sizeof(thread->registers), &thread->registers);
	if (size < 0)
		return size;
	size = regset_get_alloc(current, xstate, MOST_XSAVE, &thread->xsave);
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
static bool stands(struct thread *thread)
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
	struct thread *thread = container_of(head, struct thread, work);
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
	put_stop(stop);
	module_put(THIS_MODULE);
}

/* ---- asking ---- */

/* The lock is held. */
static struct thread *find_task(struct stop *stop, const struct task_struct *task)
{
	struct thread *thread;

	list_for_each_entry(thread, &stop->threads, link)
		if (thread->task == task)
			return thread;
	return NULL;
}

/* `asking` is held: nobody else adds threads. */
static int ask(struct stop *stop, struct task_struct *task)
{
	struct thread *thread = kzalloc(sizeof(*thread), GFP_ATOMIC | __GFP_NOWARN);

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
	put_stop(stop);
	module_put(THIS_MODULE);
	return 0;
}

/* How the threads are. */
struct count {
	unsigned int fresh;	/* have just been asked */
	unsigned int stand;
	unsigned int strange;	/* do not stand, though they do not end: another program */
};

static int ask_each(struct stop *stop, struct count *count)
{
	struct task_struct *leader, *task;
	int error = 0;

	*count = (struct count){};
	rcu_read_lock();
	leader = pid_task(stop->pid, PIDTYPE_TGID);
	if (!leader) {
		rcu_read_unlock();
		return -ESRCH;
	}
	for_each_thread(leader, task) {
		const struct thread *known;
		enum state state = ASKED;

		if (task->flags & PF_EXITING)
			continue;
#ifdef CONFIG_IO_URING
		/* Runs task works in the middle of its system calls. */
		if ((task->flags & PF_IO_WORKER) || task->io_uring) {
			error = -EBUSY;
			break;
		}
#endif
		spin_lock(&stop->lock);
		known = find_task(stop, task);
		if (known)
			state = known->state;
		spin_unlock(&stop->lock);
		if (!known) {
			error = ask(stop, task);
			if (error)
				break;
			count->fresh++;
		} else if (state == STANDS) {
			count->stand++;
		} else {
			count->strange++;
		}
	}
	rcu_read_unlock();
	return error;
}

static int ask_all(struct stop *stop, struct count *count)
{
	int error;

	mutex_lock(&stop->asking);
	error = ask_each(stop, count);
	mutex_unlock(&stop->asking);
	return error;
}

static long wait_all(struct stop *stop, const void __user *argument)
{
	struct ckpt_stop_wait request;
	struct count count;
	long left, error;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	left = msecs_to_jiffies(min_t(u32, request.timeout_ms, 60 * MSEC_PER_SEC)) + 1;
	for (;;) {
		error = ask_all(stop, &count);
		if (error)
			return error;
		left = wait_event_interruptible_timeout(stop->changed, !READ_ONCE(stop->asked), left);
		if (left < 0)
			return -EINTR;
		if (!left)
			return -ETIMEDOUT;
		/* All that are known stand, and nobody is left who could make another. */
		error = ask_all(stop, &count);
		if (error)
			return error;
		if (count.strange)
			return -EAGAIN;
		if (!count.fresh)
			return count.stand ? 0 : -ESRCH;
	}
}

/* ---- of those that stand ---- */

static long tell_threads(struct stop *stop, void __user *argument)
{
	struct ckpt_stop_threads request;
	struct thread *thread;
	s32 *tids;
	long error = 0;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.count || request.capacity > PID_MAX_LIMIT)
		return -EINVAL;
	tids = kvcalloc(max(request.capacity, 1u), sizeof(*tids), GFP_KERNEL);
	if (!tids)
		return -ENOMEM;
	spin_lock(&stop->lock);
	list_for_each_entry(thread, &stop->threads, link) {
		if (thread->state != STANDS)
			continue;
		if (request.count == request.capacity) {
			error = -ENOSPC;
			break;
		}
		tids[request.count++] = task_pid_vnr(thread->task);
	}
	spin_unlock(&stop->lock);
	if (!error && (copy_to_user(u64_to_user_ptr(request.tids), tids, request.count * sizeof(*tids)) ||
		       copy_to_user(argument, &request, sizeof(request))))
		error = -EFAULT;
	kvfree(tids);
	return error;
}

/* With the lock held, which keeps it standing where it does not die. */
static struct thread *find_standing(struct stop *stop, pid_t tid)
{
	struct thread *thread;

	list_for_each_entry(thread, &stop->threads, link)
		if (thread->state == STANDS && task_pid_vnr(thread->task) == tid)
			return thread;
	return NULL;
}

static void describe_state(const struct thread *thread, struct ckpt_thread_state *out)
{
	BUILD_BUG_ON(sizeof(out->registers) != sizeof(thread->registers));
	memcpy(out->registers, &thread->registers, sizeof(out->registers));
	out->signal_mask = thread->signal_mask;
	ckpt_get_rseq(thread->task, &out->rseq, &out->rseq_size, &out->rseq_signature);
}

static long tell_state(struct stop *stop, void __user *argument)
{
	struct ckpt_thread_state request, told = {};
	struct thread *thread;
	void *xsave;
	long error;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	told.tid = request.tid;
	told.xsave = request.xsave;
	told.xsave_size = request.xsave_size;
	if (memcmp(&told, &request, sizeof(told)))
		return -EINVAL;
	xsave = kvmalloc(MOST_XSAVE, GFP_KERNEL);
	if (!xsave)
		return -ENOMEM;
	spin_lock(&stop->lock);
	thread = find_standing(stop, request.tid);
	error = !thread ? -ESRCH : thread->error ? thread->error : thread->xsave_size > request.xsave_size ? -ENOSPC : 0;
	if (!error) {
		memcpy(xsave, thread->xsave, thread->xsave_size);
		told.xsave_size = thread->xsave_size;
		describe_state(thread, &told);
	}
	spin_unlock(&stop->lock);
	if (!error && (copy_to_user(u64_to_user_ptr(told.xsave), xsave, told.xsave_size) ||
		       copy_to_user(argument, &told, sizeof(told))))
		error = -EFAULT;
	kvfree(xsave);
	return error;
}

/* The task whose queue is meant, held; or NULL. */
static struct task_struct *task_of(struct stop *stop, pid_t tid)
{
	struct task_struct *task = NULL;
	struct thread *thread;

	spin_lock(&stop->lock);
	list_for_each_entry(thread, &stop->threads, link)
		if (thread->state == STANDS && (!tid || task_pid_vnr(thread->task) == tid)) {
			task = get_task_struct(thread->task);
			break;
		}
	spin_unlock(&stop->lock);
	return task;
}

static int copy_queue(struct task_struct *task, bool of_process, kernel_siginfo_t *infos, struct ckpt_pending *request)
{
	struct sigqueue *queued;
	unsigned long flags;
	int error = 0;

	if (!ckpt_lock_task_sighand(task, &flags))
		return -ESRCH;
	list_for_each_entry(queued, &(of_process ? &task->signal->shared_pending : &task->pending)->list, list) {
		if (request->count == request->capacity) {
			error = -ENOSPC;
			break;
		}
		copy_siginfo(&infos[request->count++], &queued->info);
	}
	unlock_task_sighand(task, &flags);
	return error;
}

static long tell_pending(struct stop *stop, void __user *argument)
{
	struct ckpt_pending request;
	struct task_struct *task;
	kernel_siginfo_t *infos;
	char __user *to;
	long error;
	u32 i;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.count || request.reserved || request.capacity > MOST_PENDING)
		return -EINVAL;
	task = task_of(stop, request.tid);
	if (!task)
		return -ESRCH;
	infos = kvcalloc(max(request.capacity, 1u), sizeof(*infos), GFP_KERNEL);
	error = infos ? copy_queue(task, !request.tid, infos, &request) : -ENOMEM;
	put_task_struct(task);
	/* As the kernel gives them: behind its own part all is zero (copy_siginfo_to_user() in kernel/signal.c). */
	to = u64_to_user_ptr(request.infos);
	for (i = 0; !error && i < request.count; i++, to += SI_MAX_SIZE)
		if (copy_to_user(to, &infos[i], sizeof(infos[i])) ||
		    clear_user(to + sizeof(infos[i]), SI_MAX_SIZE - sizeof(infos[i])))
			error = -EFAULT;
	if (!error && copy_to_user(argument, &request, sizeof(request)))
		error = -EFAULT;
	kvfree(infos);
	return error;
}

static long set_go_on(struct stop *stop, const void __user *argument)
{
	struct ckpt_go_on request;
	struct thread *thread;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.rip >= TASK_SIZE_MAX)
		return -EINVAL;
	spin_lock(&stop->lock);
	thread = find_standing(stop, request.tid);
	if (thread) {
		thread->go_on = request;
		thread->changed = true;
	}
	spin_unlock(&stop->lock);
	return thread ? 0 : -ESRCH;
}

/* ---- the descriptor ---- */

static long stop_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct stop *stop = file->private_data;
	void __user *at = (void __user *)argument;

	switch (command) {
	case CKPT_STOP_WAIT:
		return wait_all(stop, at);
	case CKPT_STOP_THREADS:
		return tell_threads(stop, at);
	case CKPT_STOP_STATE:
		return tell_state(stop, at);
	case CKPT_STOP_PENDING:
		return tell_pending(stop, at);
	case CKPT_STOP_GO_ON:
		return set_go_on(stop, at);
	default:
		return -ENOTTY;
	}
}

static int stop_flush(struct file *file, fl_owner_t id)
{
	struct stop *stop = file->private_data;

	if (task_tgid(current) == stop->owner)
		let_go(stop);
	return 0;
}

static int stop_release(struct inode *inode, struct file *file)
{
	struct stop *stop = file->private_data;

	let_go(stop);
	put_stop(stop);
	return 0;
}

static const struct file_operations stop_operations = {
	.owner = THIS_MODULE,
	.flush = stop_flush,
	.release = stop_release,
	.unlocked_ioctl = stop_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct stop *make_stop(struct ckpt_subject *subject)
{
	struct stop *stop = kzalloc(sizeof(*stop), GFP_KERNEL);

	if (!stop)
		return NULL;
	refcount_set(&stop->users, 1);
	stop->pid = get_pid(task_tgid(subject->task));
	mmgrab(subject->mm);
	stop->mm = subject->mm;
	stop->owner = get_pid(task_tgid(current));
	mutex_init(&stop->asking);
	spin_lock_init(&stop->lock);
	INIT_LIST_HEAD(&stop->threads);
	init_waitqueue_head(&stop->changed);
	init_waitqueue_head(&stop->released);
	return stop;
}

long ckpt_stop(const void __user *argument)
{
	struct ckpt_stop request;
	struct ckpt_subject subject;
	struct count count;
	struct stop *stop;
	long result;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	result = ckpt_get_subject(&subject, request.pid, PIDTYPE_TGID);
	if (result)
		return result;
	/* Nobody would be left to let it go. */
	stop = same_thread_group(subject.task, current) ? NULL : make_stop(&subject);
	result = stop ? 0 : same_thread_group(subject.task, current) ? -EINVAL : -ENOMEM;
	ckpt_put_subject(&subject);
	if (result)
		return result;
	result = ask_all(stop, &count);
	if (!result)
		result = ckpt_descriptor("[ckpt_stop]", &stop_operations, stop, 0);
	if (result < 0) {
		let_go(stop);
		put_stop(stop);
	}
	return result;
}
