// Finding and freeing pages that nobody refers to.
#pragma once

#include "engine/store/store_core.h"

namespace ckpt {

/// Store::collect_garbage.
GcResult collect_garbage(StoreCore& core, bool dry_run, const Progress& progress);

/// Store::check.
CheckResult check_store(const std::shared_ptr<StoreCore>& core, Store::CheckLevel level, const Progress& progress);

}  // namespace ckpt
