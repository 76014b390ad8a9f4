// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0
/*
 * A process's memory as of one instant: a copy-on-write copy of its address space that no process has. It costs the
 * process what a fork(2) does, copying page tables, and leaves no child behind.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "ckpt_device.h"
#include "compat.h"
#include "internal.h"

#define MOST_RUNS 4096		/* that one call looks for */
#define BATCH 64		/* pages that are held at once */

static bool is_range(u64 start, u64 end)
{
	return start <= end && end <= TASK_SIZE_MAX && PAGE_ALIGNED(start) && PAGE_ALIGNED(end);
}

/* ---- which pages hold content ---- */

struct walk {
	struct ckpt_run *runs;
	u32 capacity;
	u32 count;
	u64 next;
};

/* 1, which ends the walk, where no run is left. */
static int add_run(struct walk *walk, u64 start, u64 end)
{
	if (walk->count && walk->runs[walk->count - 1].end == start) {
		walk->runs[walk->count - 1].end = end;
		return 0;
	}
	if (walk->count == walk->capacity) {
		walk->next = start;
		return 1;
	}
	walk->runs[walk->count].start = start;
	walk->runs[walk->count].end = end;
	walk->count++;
	return 0;
}

static bool has_content(pte_t pte)
{
	swp_entry_t entry;

	if (pte_none(pte))
		return false;
	if (pte_present(pte))	/* special: the zero page, and pages of devices */
		return !pte_special(pte) && PageAnon(pte_page(pte));
	entry = pte_to_swp_entry(pte);
	if (!non_swap_entry(entry))
		return true;
	/* On its way to another place in memory. Others, such as markers, are not of content. */
	return is_migration_entry(entry) && PageAnon(pfn_swap_entry_to_page(entry));
}

static int walk_pte(pte_t *pte, unsigned long start, unsigned long end, struct mm_walk *walk)
{
	return has_content(*pte) ? add_run(walk->private, start, end) : 0;
}

/* A huge page as a whole; the walk would split it. */
static int walk_pmd(pmd_t *pmd, unsigned long start, unsigned long end, struct mm_walk *walk)
{
	spinlock_t *lock;
	int result = 0;

	cond_resched();
	if (fatal_signal_pending(current))
		return -EINTR;
	if (!pmd_trans_huge(*pmd))
		return 0;
	lock = pmd_lock(walk->mm, pmd);
	if (pmd_trans_huge(*pmd)) {
		walk->action = ACTION_CONTINUE;
		if (PageAnon(pmd_page(*pmd)))	/* else it is the huge zero page, or a file's */
			result = add_run(walk->private, start, end);
	}
	spin_unlock(lock);
	return result;
}

static int walk_vma(unsigned long start, unsigned long end, struct mm_walk *walk)
{
	const unsigned long flags = walk->vma->vm_flags;

	/* Skipped: memory of devices, huge pages of hugetlbfs, and what is shared. */
	return (flags & (VM_IO | VM_PFNMAP | VM_HUGETLB | VM_SHARED)) || !walk->vma->anon_vma;
}

static const struct mm_walk_ops walk_ops = {
	.test_walk = walk_vma,
	.pmd_entry = walk_pmd,
	.pte_entry = walk_pte,
};

static long find_runs(struct mm_struct *mm, struct ckpt_runs __user *argument)
{
	struct ckpt_runs request;
	struct walk walk = {};
	long result;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (!is_range(request.start, request.end) || !request.capacity || request.count || request.next)
		return -EINVAL;
	walk.capacity = min_t(u32, request.capacity, MOST_RUNS);
	walk.next = request.end;
	walk.runs = kvmalloc_array(walk.capacity, sizeof(*walk.runs), GFP_KERNEL);
	if (!walk.runs)
		return -ENOMEM;
	result = mmap_read_lock_killable(mm);
	if (!result) {
		if (request.start < request.end)
			result = ckpt_walk_page_range(mm, request.start, request.end, &walk_ops, &walk);
		mmap_read_unlock(mm);
	}
	if (result >= 0) {
		request.count = walk.count;
		request.next = walk.next;
		result = copy_to_user(u64_to_user_ptr(request.runs), walk.runs, walk.count * sizeof(*walk.runs)) ||
			 copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
	}
	kvfree(walk.runs);
	return result;
}

/* ---- the descriptor ---- */

/* Bytes of pages copied out, all of them or -EFAULT; lets go of the pages. */
static int copy_pages(char __user *to, struct page **pages, long count)
{
	bool failed = false;
	long i;

	for (i = 0; i < count; i++) {
		if (!failed) {
			const void *from = kmap_local_page(pages[i]);

			failed = copy_to_user(to + i * PAGE_SIZE, from, PAGE_SIZE) != 0;
			kunmap_local(from);
		}
		put_page(pages[i]);
	}
	return failed ? -EFAULT : 0;
}

static ssize_t snapshot_read(struct file *file, char __user *to, size_t size, loff_t *pos)
{
	struct mm_struct *mm = file->private_data;
	struct page *pages[BATCH];
	size_t done = 0;
	int error = 0;

	if (*pos < 0 || size > TASK_SIZE_MAX || !is_range(*pos, *pos + size))
		return -EINVAL;
	while (done < size && !error) {
		const unsigned long want = min_t(size_t, BATCH, (size - done) / PAGE_SIZE);
		long got;

		cond_resched();
		error = mmap_read_lock_killable(mm);
		if (error)
			break;
		got = ckpt_get_pages(mm, *pos + done, want, pages);
		mmap_read_unlock(mm);
		if (got == -EFAULT) {
			error = clear_user(to + done, PAGE_SIZE) ? -EFAULT : 0;
			got = 1;
		} else if (got > 0) {
			error = copy_pages(to + done, pages, got);
		} else {
			error = got == -ERESTARTSYS || got == -EINTR ? -EINTR : got == -ENOMEM ? -ENOMEM : -EIO;
		}
		if (!error)
			done += got * PAGE_SIZE;
	}
	*pos += done;
	return done ? done : error;
}

static long snapshot_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	if (command != CKPT_SNAPSHOT_RUNS)
		return -ENOTTY;
	return find_runs(file->private_data, (struct ckpt_runs __user *)argument);
}

static int snapshot_release(struct inode *inode, struct file *file)
{
	mmput(file->private_data);
	return 0;
}

static const struct file_operations snapshot_operations = {
	.owner = THIS_MODULE,
	.release = snapshot_release,
	.read = snapshot_read,
	.unlocked_ioctl = snapshot_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/* ---- the copy ---- */

/* A copy of its mappings would be told to whoever serves the faults, and waits for him. */
static int check_userfaultfd(struct mm_struct *mm)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(iterator, mm, 0);
	int result = mmap_read_lock_killable(mm);

	if (result)
		return result;
	for_each_vma(iterator, vma)
		if (vma->vm_flags & __VM_UFFD_FLAGS)
			result = -EBUSY;
	mmap_read_unlock(mm);
	return result;
}

static struct mm_struct *copy_memory(struct mm_struct *mm)
{
	struct mm_struct *copy;
	int error = check_userfaultfd(mm);

	if (error)
		return ERR_PTR(error);
	copy = ckpt_mm_alloc();
	if (!copy)
		return ERR_PTR(-ENOMEM);
#ifdef CONFIG_MEMCG
	/* Nobody's: the task that has made it may end before it. */
	copy->owner = NULL;
#endif
	error = ckpt_dup_mmap(copy, mm);
	if (!error)
		return copy;
	mmput(copy);
	return ERR_PTR(error);
}

long ckpt_snapshot(const void __user *argument)
{
	struct ckpt_snapshot request;
	struct ckpt_subject subject;
	struct mm_struct *copy;
	int fd;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	fd = ckpt_get_subject(&subject, request.pid, PIDTYPE_TGID);
	if (fd)
		return fd;
	copy = copy_memory(subject.mm);
	ckpt_put_subject(&subject);
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	fd = ckpt_descriptor("[ckpt_snapshot]", &snapshot_operations, copy, FMODE_LSEEK | FMODE_PREAD);
	if (fd < 0)
		mmput(copy);
	return fd;
}
