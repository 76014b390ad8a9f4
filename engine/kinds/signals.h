// Signals: actions (process), pending ones with their siginfo (process and thread), mask and alternate stack (thread).
//
//   signals          action SIGNO handler flags restorer mask     (all hex; only actions other than the default)
//                    pending HEX                                  (raw siginfo_t of the shared queue, in order)
//   threads/TID      sigmask 0x...
//                    altstack ADDRESS SIZE FLAGS
//                    pending HEX
//
// The mask itself is put in place by the resume, as the very last step of a thread: until then every signal stays
// blocked, so that a pending one is not delivered into a half-made process.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_signals(const CaptureContext& ctx, Questions& questions);
void capture_signals(const CaptureContext& ctx, const Questions& answers);
void restore_signals(const RestoreContext& ctx, Remote& leader);

void ask_thread_signals(Questions& questions);
void capture_thread_signals(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
void restore_thread_signals(const RestoreContext& ctx, Remote& thread, const Record& record);

/// The mask of a thread's record; a resume sets it with PTRACE_SETSIGMASK just before it lets the thread go.
uint64_t recorded_signal_mask(const Record& thread);

}  // namespace ckpt
