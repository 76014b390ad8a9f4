// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/* /dev/ckpt: requests out, answers in. */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <linux/wait.h>

#include "ckpt_device.h"
#include "internal.h"

/* A request lives while the process waits for it or the server may answer it. */
struct entry {
	struct list_head link;
	struct ckpt_request request;
	struct pid *pid;
	int sig;
	bool taken;		/* by read(2) */
	bool done;
	refcount_t users;
};

static DEFINE_SPINLOCK(lock);		/* guards all below, and the entries */
static LIST_HEAD(entries);
static bool served;
static u64 last_id;
static DECLARE_WAIT_QUEUE_HEAD(changed);	/* for the server and for who waits for an answer */

static void put_entry(struct entry *entry)
{
	if (!refcount_dec_and_test(&entry->users))
		return;
	put_pid(entry->pid);
	kfree(entry);
}

/* Off the list, which had a reference. The lock is held. */
static void finish(struct entry *entry)
{
	list_del_init(&entry->link);
	entry->done = true;
}

int ckpt_request(bool exit, int sig)
{
	struct entry *entry = kzalloc(sizeof(*entry), GFP_KERNEL);

	if (!entry)
		return -ENOMEM;
	entry->request.pid = task_tgid_nr(current);
	entry->request.uid = from_kuid(&init_user_ns, current_uid());
	entry->request.gid = from_kgid(&init_user_ns, current_gid());
	entry->request.flags = exit ? CKPT_REQUEST_EXIT : 0;
	entry->pid = get_pid(task_tgid(current));
	entry->sig = sig;
	refcount_set(&entry->users, 2);

	spin_lock(&lock);
	if (!served) {
		spin_unlock(&lock);
		put_pid(entry->pid);
		kfree(entry);
		return -ENODEV;
	}
	entry->request.id = ++last_id;
	list_add_tail(&entry->link, &entries);
	spin_unlock(&lock);
	wake_up_all(&changed);

	/* The stop for the checkpoint interrupts it, which is as good as an answer. */
	wait_event_interruptible(changed, READ_ONCE(entry->done));
	put_entry(entry);
	return 0;
}

static struct entry *next_untaken(void)
{
	struct entry *entry;

	list_for_each_entry(entry, &entries, link)
		if (!entry->taken)
			return entry;
	return NULL;
}

static bool has_untaken(void)
{
	bool has;

	spin_lock(&lock);
	has = next_untaken() != NULL;
	spin_unlock(&lock);
	return has;
}

/* Whether the file is the one that serves the signals. */
static bool serves(struct file *file)
{
	return (file->f_mode & FMODE_READ) && (file->f_mode & FMODE_WRITE);
}

static ssize_t ckpt_read(struct file *file, char __user *to, size_t size, loff_t *pos)
{
	struct ckpt_request request;
	struct entry *entry;

	if (size < sizeof(request) || !serves(file))
		return -EINVAL;
	for (;;) {
		spin_lock(&lock);
		entry = next_untaken();
		if (entry) {
			entry->taken = true;
			request = entry->request;
		}
		spin_unlock(&lock);
		if (entry)
			break;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(changed, has_untaken()))
			return -ERESTARTSYS;
	}
	/* Who cannot be told fails it: it would never be answered. */
	if (copy_to_user(to, &request, sizeof(request))) {
		spin_lock(&lock);
		list_for_each_entry(entry, &entries, link)
			if (entry->request.id == request.id) {
				entry->taken = false;
				break;
			}
		spin_unlock(&lock);
		return -EFAULT;
	}
	return sizeof(request);
}

static ssize_t ckpt_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	struct ckpt_answer answer;
	struct entry *entry, *found = NULL;

	if (size != sizeof(answer))
		return -EINVAL;
	if (copy_from_user(&answer, from, sizeof(answer)))
		return -EFAULT;
	if (answer.reserved || answer.error < 0 || answer.error > 4095)
		return -EINVAL;

	spin_lock(&lock);
	list_for_each_entry(entry, &entries, link)
		if (entry->taken && entry->request.id == answer.id) {
			found = entry;
			finish(entry);
			break;
		}
	spin_unlock(&lock);
	if (!found)
		return -ENOENT;
	if (!answer.error && (found->request.flags & CKPT_REQUEST_EXIT))
		ckpt_end_process(found->pid, found->sig);
	if (answer.error)
		pr_notice("%d: was not checkpointed: error %d\n", found->request.pid, answer.error);
	wake_up_all(&changed);
	put_entry(found);
	return sizeof(answer);
}

static __poll_t ckpt_poll(struct file *file, poll_table *table)
{
	if (!serves(file))
		return EPOLLERR;
	poll_wait(file, &changed, table);
	return EPOLLOUT | EPOLLWRNORM | (has_untaken() ? EPOLLIN | EPOLLRDNORM : 0);
}

static long ckpt_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *at = (void __user *)argument;
	u32 version;

	switch (command) {
	case CKPT_IOC_VERSION:
		if (get_user(version, (u32 __user *)at))
			return -EFAULT;
		return version == CKPT_DEVICE_VERSION ? 0 : -EINVAL;
	case CKPT_IOC_SNAPSHOT:
		return ckpt_snapshot(at);
	case CKPT_IOC_STOP:
		return ckpt_stop(at);
	case CKPT_IOC_THREAD:
		return ckpt_thread_facts(at);
	case CKPT_IOC_PROCESS:
		return ckpt_process_facts(at);
	default:
		return -ENOTTY;
	}
}

static int ckpt_open(struct inode *inode, struct file *file)
{
	int result = 0;

	if (!serves(file))
		return (file->f_mode & FMODE_WRITE) ? -EINVAL : 0;
	spin_lock(&lock);
	if (served)
		result = -EBUSY;
	else
		served = true;
	spin_unlock(&lock);
	return result;
}

static int ckpt_release(struct inode *inode, struct file *file)
{
	struct entry *entry, *next;
	LIST_HEAD(left);

	if (!serves(file))
		return 0;
	spin_lock(&lock);
	served = false;
	list_splice_init(&entries, &left);
	list_for_each_entry(entry, &left, link)
		entry->done = true;
	spin_unlock(&lock);
	wake_up_all(&changed);
	list_for_each_entry_safe(entry, next, &left, link) {
		list_del_init(&entry->link);
		put_entry(entry);
	}
	return 0;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = ckpt_open,
	.release = ckpt_release,
	.read = ckpt_read,
	.write = ckpt_write,
	.poll = ckpt_poll,
	.unlocked_ioctl = ckpt_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = no_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ckpt",
	.fops = &operations,
	.mode = 0600,
};

int ckpt_descriptor(const char *name, const struct file_operations *operations, void *data, fmode_t mode)
{
	const int fd = get_unused_fd_flags(O_CLOEXEC);
	struct file *file;

	if (fd < 0)
		return fd;
	file = anon_inode_getfile(name, operations, data, O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	file->f_mode |= mode;
	fd_install(fd, file);
	return fd;
}

int ckpt_device_init(void)
{
	return misc_register(&device);
}

void ckpt_device_exit(void)
{
	misc_deregister(&device);
}
