/*
 * Between ckptfs and libckpt: the 64-bit word in the caller's memory by which it hears what became of its checkpoint. A
 * process cannot wait for its own in a system call of the mount, nor learn from a file whether it is the resumed one.
 *
 * The word holds CKPT_PENDING while the checkpoint is under way, and so it does in the image. ckptfs replaces it by the
 * flags that took effect, or by a negative errno; whoever resumes the image, by CKPT_RETURN and the resume's flags. It
 * replaces nothing else: nobody can have another word written by an address that he makes up.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CKPT_ANSWER_H
#define CKPT_ANSWER_H

#define CKPT_PENDING 0x6b73612074706b63 /* "ckpt ask" */

#endif
