// NUMA memory policy of each thread, set_mempolicy(2). In threads/TID
//
//   memory_policy 2 0x1        mode with its flags, as get_mempolicy(2) tells it, and the nodes, in hex; absent for the default
//
// Policies of single mappings, mbind(2), are not kept.
#pragma once

#include "engine/kinds/kind.h"
#include "engine/kinds/questions.h"

namespace ckpt {

void ask_memory_policy(Questions& questions);
void capture_memory_policy(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
void restore_memory_policy(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
