#include "engine/store/flush_env.h"

#include <memory>

namespace ckpt {

thread_local bool FlushEnv::in_flush_ = false;

struct FlushEnv::Job {
  FlushEnv& env;
  void (*function)(void*);
  void (*when_dropped)(void*);
  void* argument;

  Job(FlushEnv& e, void (*f)(void*), void (*d)(void*), void* a) : env(e), function(f), when_dropped(d), argument(a) {
    ++env.handed_out_;
  }
  ~Job() { --env.handed_out_; }
};

FlushEnv::FlushEnv() : EnvWrapper(Env::Default()) {
  file_system_ = Env::Default()->GetFileSystem();
  system_clock_ = Env::Default()->GetSystemClock();
}

FlushEnv& FlushEnv::get() {
  static FlushEnv* const env = new FlushEnv;
  return *env;
}

void FlushEnv::Schedule(void (*function)(void*), void* argument, Priority priority, void* tag,
                        void (*when_dropped)(void*)) {
  if (priority != HIGH) return EnvWrapper::Schedule(function, argument, priority, tag, when_dropped);
  const auto run = [](void* p) {
    const std::unique_ptr<Job> job(static_cast<Job*>(p));
    in_flush_ = true;
    job->function(job->argument);
    in_flush_ = false;
  };
  const auto drop = [](void* p) {
    const std::unique_ptr<Job> job(static_cast<Job*>(p));
    if (job->when_dropped != nullptr) job->when_dropped(job->argument);
  };
  EnvWrapper::Schedule(run, new Job(*this, function, when_dropped, argument), priority, tag, drop);
}

}  // namespace ckpt
