// The XSAVE area of an image in the layout that debuggers know.
#pragma once

#include <string>
#include <string_view>

#include "engine/base/record.h"

namespace ckpt {

/// `area`, from registers/TID.xsave, in the layout of Intel's CPUs with AVX-512, and no component that came after it.
/// Before version 14 gdb knows no other one (AMD's CPUs keep the protection keys closer), and later versions tell layouts
/// from each other by the size of the whole, which AMX takes away from them. `registers` is registers/TID, whose
/// xsave_component lines say what stands where. An area that is too short comes back as it is. Throws Error(EINVAL) for
/// a malformed line.
std::string debugger_xsave(std::string_view area, const Record& registers);

}  // namespace ckpt
