#include "engine/kinds/process_room.h"

#include "engine/base/error.h"
#include "engine/kinds/cpu_features.h"
#include "engine/kinds/credentials.h"
#include "engine/kinds/keyring.h"
#include "engine/kinds/lsm_label.h"
#include "engine/kinds/memory_policy.h"
#include "engine/kinds/process_state.h"
#include "engine/kinds/scheduling.h"
#include "engine/kinds/signals.h"
#include "engine/kinds/thread_state.h"
#include "engine/kinds/timers.h"

namespace ckpt {

const std::vector<ProcessRoom>& process_rooms() {
  static const std::vector<ProcessRoom> rooms = {
      {"signals", ask_signals, capture_signals, restore_signals},
      {"timers", ask_timers, capture_timers, restore_timers},
      {"process state", ask_process_state, capture_process_state, restore_process_state},
  };
  return rooms;
}

const std::vector<ThreadRoom>& thread_rooms() {
  // Credentials change what the rooms after them may do, and clear the parent-death signal.
  static const std::vector<ThreadRoom> rooms = {
      {"signals", ask_thread_signals, capture_thread_signals, restore_thread_signals},
      {"CPU features", ask_cpu_features, capture_cpu_features, restore_cpu_features},
      {"credentials", ask_credentials, capture_credentials, restore_credentials},
      {"keyrings", ask_keyrings, capture_keyrings, restore_keyrings},
      {"label", nullptr, capture_label, check_label},
      {"scheduling", nullptr, capture_scheduling, restore_scheduling},
      {"memory policy", ask_memory_policy, capture_memory_policy, restore_memory_policy},
      {"thread state", ask_thread_state, capture_thread_state, restore_thread_state},
  };
  return rooms;
}

void capture_rooms(const CaptureContext& ctx, const std::vector<Remote*>& threads, Questions& of_leader) {
  for (Remote* thread : threads) {
    const bool is_leader = thread == ctx.leader;
    Questions of_thread;
    Questions& questions = is_leader ? of_leader : of_thread;
    for (const ProcessRoom& room : process_rooms()) {
      if (is_leader) room.ask(ctx, questions);
    }
    for (const ThreadRoom& room : thread_rooms()) {
      if (room.ask != nullptr) room.ask(questions);
    }
    questions.put_to(*thread);
    for (const ProcessRoom& room : process_rooms()) {
      if (is_leader) ctx.step([&] { room.capture(ctx, questions); });
    }
    Record out;
    for (const ThreadRoom& room : thread_rooms()) ctx.step([&] { room.capture(ctx, *thread, questions, out); });
    ctx.image->put(fmt::format("{}threads/{}", ctx.prefix, thread->tid()), out.text());
  }
}

void restore_rooms(const RestoreContext& ctx, const std::vector<Remote*>& threads) {
  Remote& leader = *threads.front();
  for (const ProcessRoom& room : process_rooms()) room.restore(ctx, leader);
  for (Remote* thread : threads) {
    const std::string path = fmt::format("{}threads/{}", ctx.prefix, thread->tid());
    const Record record = Record::parse(ctx.image->read(path), path);
    for (const ThreadRoom& room : thread_rooms()) room.restore(ctx, *thread, record);
  }
  restore_dumpable(ctx, leader);
}

}  // namespace ckpt
