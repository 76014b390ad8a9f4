// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/* What only the kernel can see of a process and its threads, as the process itself would learn it by system calls. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/hrtimer.h>
#include <linux/key.h>
#include <linux/pid.h>
#include <linux/posix-timers.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/pkeys.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ckpt_device.h"
#include "compat.h"
#include "internal.h"

#define MOST_TIMERS 65536	/* that one call tells of */

void ckpt_put_subject(struct ckpt_subject *subject)
{
	mmput(subject->mm);
	put_task_struct(subject->task);
}

int ckpt_get_subject(struct ckpt_subject *subject, pid_t number, enum pid_type type)
{
	struct pid *pid = number > 0 ? find_get_pid(number) : NULL;

	subject->task = get_pid_task(pid, type);
	put_pid(pid);
	if (!subject->task)
		return -ESRCH;
	subject->mm = get_task_mm(subject->task);
	if (!subject->mm) {
		put_task_struct(subject->task);
		return -ESRCH;
	}
	/* A module cannot ask the security modules whether the caller may trace the process: who has this right may. */
	if (ns_capable(subject->mm->user_ns, CAP_SYS_PTRACE))
		return 0;
	ckpt_put_subject(subject);
	return -EPERM;
}

/* ---- a thread ---- */

static s32 keyring_id(struct key *keyring)
{
	const int error = keyring ? key_validate(keyring) : 0;

	return !keyring ? 0 : error ? error : key_serial(keyring);
}

/* Named so by security/keys/process_keys.c. */
static bool is_users(const struct key *keyring)
{
	return keyring && test_bit(KEY_FLAG_UID_KEYRING, &keyring->flags) && strstarts(keyring->description, "_uid_ses.");
}

/* Where the kernel has keys; under RCU. */
static void describe_keyrings(const struct cred *cred, struct ckpt_thread *out)
{
#ifdef CONFIG_KEYS
	out->thread_keyring = keyring_id(cred->thread_keyring);
	out->process_keyring = keyring_id(cred->process_keyring);
	out->session_keyring = is_users(cred->session_keyring) ? 0 : keyring_id(cred->session_keyring);
#else
	out->thread_keyring = out->process_keyring = out->session_keyring = -ENOSYS;
#endif
}

static void describe_thread(struct task_struct *task, struct ckpt_thread *out)
{
	struct thread_info *info = task_thread_info(task);
	int i;

	out->altstack = task->sas_ss_sp;
	out->altstack_size = task->sas_ss_size;
	out->altstack_flags = (task->sas_ss_size ? 0 : SS_DISABLE) | (task->sas_ss_flags & SS_FLAG_BITS);
	out->parent_death_signal = task->pdeath_signal;
	out->clear_child_tid = (u64)task->clear_child_tid;
	out->timer_slack_ns = task->timer_slack_ns;
	out->xfeatures_permitted = READ_ONCE(task->group_leader->thread.fpu.perm.__state_perm);
	rcu_read_lock();
	out->securebits = __task_cred(task)->securebits;
	describe_keyrings(__task_cred(task), out);
	rcu_read_unlock();
	if (test_ti_thread_flag(info, TIF_NOTSC))
		out->flags |= CKPT_THREAD_NO_TSC;
	if (test_ti_thread_flag(info, TIF_NOCPUID))
		out->flags |= CKPT_THREAD_NO_CPUID;
	for (i = 0; i < CKPT_SPECULATIONS; i++)
		out->speculation[i] = ckpt_speculation_get(task, i);
}

long ckpt_thread_facts(void __user *argument)
{
	struct ckpt_thread request, facts = {};
	struct ckpt_subject subject;
	int error;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	facts.tid = request.tid;
	/* All but the number is to come. */
	if (memcmp(&request, &facts, sizeof(facts)))
		return -EINVAL;
	error = ckpt_get_subject(&subject, request.tid, PIDTYPE_PID);
	if (error)
		return error;
	describe_thread(subject.task, &facts);
	ckpt_put_subject(&subject);
	return copy_to_user(argument, &facts, sizeof(facts)) ? -EFAULT : 0;
}

/* ---- a process ---- */

static void describe_actions(struct sighand_struct *sighand, struct ckpt_process *out)
{
	int i;

	for (i = 0; i < _NSIG; i++) {
		const struct sigaction *action = &sighand->action[i].sa;

		out->actions[i].handler = (u64)action->sa_handler;
		out->actions[i].flags = action->sa_flags;
		out->actions[i].restorer = (u64)action->sa_restorer;
		out->actions[i].mask = action->sa_mask.sig[0];
	}
}

/* As getitimer(2) tells (kernel/time/itimer.c); the siglock is held. */
static void describe_intervals(struct signal_struct *signal, struct ckpt_process *out)
{
	int i;

	out->intervals[0].interval_ns = ktime_to_ns(signal->it_real_incr);
	if (hrtimer_active(&signal->real_timer)) {
		const s64 left = ktime_to_ns(__hrtimer_get_remaining(&signal->real_timer, true));

		/* About to fire. */
		out->intervals[0].value_ns = left > 0 ? left : NSEC_PER_USEC;
	}
	for (i = 0; i < 2; i++) {
		const struct cpu_itimer *timer = &signal->it[i];
		const struct task_cputime_atomic *spent = &signal->cputimer.cputime_atomic;
		struct ckpt_timer_value *to = &out->intervals[i == CPUCLOCK_PROF ? 2 : 1];
		u64 now = atomic64_read(&spent->utime);

		if (i == CPUCLOCK_PROF)
			now += atomic64_read(&spent->stime);
		to->interval_ns = timer->incr;
		if (timer->expires)
			to->value_ns = timer->expires > now ? timer->expires - now : TICK_NSEC;
	}
}

/* As timer_gettime(2) tells. The siglock is held, which is taken under the lock of a timer elsewhere. */
static int describe_timers(struct signal_struct *signal, struct ckpt_timer *to, u32 capacity, u32 *count)
{
	struct k_itimer *timer;

	list_for_each_entry(timer, &signal->posix_timers, list) {
		struct itimerspec64 setting = {};

		if (*count == capacity)
			return -ENOSPC;
		if (!spin_trylock(&timer->it_lock))
			return -EAGAIN;
		ckpt_timer_get(timer, &setting);
		spin_unlock(&timer->it_lock);
		to[*count].id = timer->it_id;
		to[*count].value_ns = timespec64_to_ns(&setting.it_value);
		to[*count].interval_ns = timespec64_to_ns(&setting.it_interval);
		++*count;
	}
	return 0;
}

static int describe_process(struct ckpt_subject *subject, struct ckpt_process *out, struct ckpt_timer *timers)
{
	struct signal_struct *signal = subject->task->signal;
	struct mm_struct *mm = subject->mm;
	struct sighand_struct *sighand;
	unsigned long flags;
	int error, i;

	out->brk = READ_ONCE(mm->brk);
	out->dumpable = get_dumpable(mm);
	if (test_bit(MMF_DISABLE_THP, &mm->flags))
		out->flags |= CKPT_PROCESS_THP_DISABLED;
	if (READ_ONCE(mm->def_flags) & VM_LOCKED)
		out->flags |= CKPT_PROCESS_LOCK_FUTURE;
	if (READ_ONCE(mm->def_flags) & VM_LOCKONFAULT)
		out->flags |= CKPT_PROCESS_LOCK_ON_FAULT;
	for (i = 0; i < arch_max_pkey(); i++)
		if (mm_pkey_is_allocated(mm, i))
			out->protection_keys |= 1u << i;
	sighand = ckpt_lock_task_sighand(subject->task, &flags);
	if (!sighand)
		return -ESRCH;
	if (signal->is_child_subreaper)
		out->flags |= CKPT_PROCESS_SUBREAPER;
	describe_actions(sighand, out);
	describe_intervals(signal, out);
	error = describe_timers(signal, timers, out->capacity, &out->count);
	spin_unlock_irqrestore(&sighand->siglock, flags);
	return error;
}

static int fill_process(struct ckpt_process *facts, struct ckpt_timer *timers)
{
	struct ckpt_subject subject;
	int error = ckpt_get_subject(&subject, facts->pid, PIDTYPE_TGID);

	if (error)
		return error;
	error = describe_process(&subject, facts, timers);
	ckpt_put_subject(&subject);
	if (!error && copy_to_user(u64_to_user_ptr(facts->timers), timers, facts->count * sizeof(*timers)))
		error = -EFAULT;
	return error;
}

long ckpt_process_facts(void __user *argument)
{
	struct ckpt_process *request = memdup_user(argument, sizeof(*request)), *facts;
	struct ckpt_timer *timers = NULL;
	long error = -ENOMEM;

	if (IS_ERR(request))
		return PTR_ERR(request);
	facts = kzalloc(sizeof(*facts), GFP_KERNEL);
	if (facts) {
		facts->pid = request->pid;
		facts->timers = request->timers;
		facts->capacity = request->capacity;
		error = memcmp(request, facts, sizeof(*facts)) || facts->capacity > MOST_TIMERS ? -EINVAL : 0;
	}
	if (!error) {
		timers = kvcalloc(facts->capacity, sizeof(*timers), GFP_KERNEL);
		error = timers || !facts->capacity ? fill_process(facts, timers) : -ENOMEM;
	}
	if (!error && copy_to_user(argument, facts, sizeof(*facts)))
		error = -EFAULT;
	kvfree(timers);
	kfree(facts);
	kfree(request);
	return error;
}
