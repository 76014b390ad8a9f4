// What a process has of the memory of the one that made it, by fork(2), copy on write. In a resume a child is made when its
// maker's memory is there: then the pages that neither of them has changed since are in memory once, as they were.
#pragma once

#include <vector>

#include "engine/memory/fill.h"
#include "engine/memory/inherited.h"
#include "engine/memory/layout.h"

namespace ckpt {

/// Whether an address space as `maker` describes it can be copied and then be changed into any other: it holds nothing that
/// every copy would have, and could not get rid of (protection keys, PR_SET_MEMORY_MERGE, another kernel's vDSO).
bool may_be_copied(const Layout& maker);

/// `from` with the pages `content`, copied, on its way to `to`.
Inheritance find_inheritance(const Layout& from, const std::vector<Segment>& content, const Layout& to);

/// Whether any page of `content`, which is to be in it, is there already, changed or not.
bool has_any(const Inheritance& inheritance, const std::vector<Segment>& content);

}  // namespace ckpt
