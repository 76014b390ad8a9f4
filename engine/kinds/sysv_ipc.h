// What System V shared memory, semaphores and message queues have in common: struct ipc64_perm, and the ids that programs
// keep in their memory.
//
//   id 32769                 given again (Documentation/admin-guide/sysctl/kernel.rst: msg_next_id, sem_next_id, shm_next_id)
//   key 0x5f010002           0 for IPC_PRIVATE
//   mode 0600, uid 0, gid 0  of a set of semaphores or a queue; its creator is whoever resumes
//
// Semaphores and queues belong to no process. A set or a queue is part of a checkpoint where a process of it was the last
// to do something to it and nobody outside who lives has been: then its content is the image's. The others are left as they
// are.
#pragma once

#include <sys/ipc.h>
#include <sys/types.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/base/record.h"
#include "engine/caller.h"
#include "engine/image/image.h"
#include "engine/process/remote.h"
#include "engine/process/traces.h"

namespace ckpt {

/// Main threads of the processes of a checkpoint, all stopped, or of a resume, none of which runs yet.
using IpcMembers = std::map<pid_t, Remote*>;

struct IpcObject {
  int id = -1;
  key_t key = IPC_PRIVATE;
  unsigned mode = 0;             ///< permission bits
  uid_t uid = 0;
  gid_t gid = 0;

  IpcObject() = default;
  IpcObject(int number, const ipc_perm& perm)
      : id(number), key(perm.__key), mode(perm.mode & 0777), uid(perm.uid), gid(perm.gid) {}
  bool operator==(const IpcObject&) const = default;
  void set(ipc_perm& perm) const;
};

void add_ipc_object(const IpcObject& object, Record& out);
/// Throws Error(EINVAL).
IpcObject parse_ipc_object(const Record& record);
/// Throws Error(EPERM) where `caller` may not do what he likes with an object of that owner.
void check_owns(const Caller& caller, const IpcObject& object, const std::string& where);

/// The next object of the kind ("shm", "sem", "msg") that this IPC namespace makes gets the id, if that is free. Throws Error.
void choose_next_id(const char* kind, int id, const std::string& where);

/// Ids of all objects of the kind ("sem", "msg") in our IPC namespace.
std::vector<int> list_ipc_objects(const char* kind);

/// Whether an object belongs to the checkpoint, `last` being who did something to it last, 0 for nobody.
bool belongs_to(const IpcMembers& members, std::span<const pid_t> last);

/// Names of the files objects/KIND-ID of an image.
std::vector<std::string> recorded_ipc_objects(const ImageSource& image, std::string_view kind);

}  // namespace ckpt
