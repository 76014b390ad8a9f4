#include "engine/kinds/lsm_label.h"

#include "engine/base/error.h"
#include "engine/process/procfs.h"

namespace ckpt {

void capture_label(const CaptureContext& ctx, Remote& thread, const Questions&, Record& out) {
  const std::string label = read_label(fmt::format("/proc/{}/task/{}", ctx.pid, thread.tid()));
  if (!label.empty()) out.add("label", label);
}

void check_label(const RestoreContext&, Remote& thread, const Record& record) {
  const std::string was = record.find("label").value_or("");
  if (was.empty()) return;
  const std::string is = read_label(fmt::format("/proc/{}/task/{}", thread.pid(), thread.tid()));
  if (was == is) return;
  fail(EPERM, "{}: its security label was '{}', and would be '{}'", record.where(), escape(was), escape(is));
}

}  // namespace ckpt
