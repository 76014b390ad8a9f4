// Work that must come to its end even if this process is killed in the middle of it: what takes something apart and puts it
// together again, in a process that runs on as if nothing had happened.
#pragma once

namespace ckpt {

/// Runs `work(argument)` in a process of its own that shares memory and descriptors with us; the calling thread waits. A
/// signal, SIGKILL included, that is sent to us or to our process group does not reach it. Since another thread of ours may
/// have been killed while it held a lock, `work` may only make system calls and use memory that is there already: nothing
/// that allocates, locks or throws. Throws Error(EAGAIN) where there can be no process; `work` has not begun then.
void outlive(void (*work)(void*), void* argument);

/// The same for a callable.
template <typename Work>
void outlive(Work& work) {
  outlive([](void* w) { (*static_cast<Work*>(w))(); }, &work);
}

}  // namespace ckpt
