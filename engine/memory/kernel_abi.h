// Numbers of the kernel's interface that Debian 12's headers (Linux 6.1) do not have yet, and the few of userfaultfd
// that belong to them. From include/uapi/linux/fs.h, include/uapi/linux/userfaultfd.h and
// Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <linux/ioctl.h>

#include <cstdint>

namespace ckpt::abi {

// ---- PAGEMAP_SCAN, Linux 6.7 ----

struct PageRegion {
  uint64_t start = 0, end = 0;
  uint64_t categories = 0;
};

struct PmScanArg {
  uint64_t size = sizeof(PmScanArg);
  uint64_t flags = 0;
  uint64_t start = 0, end = 0;
  uint64_t walk_end = 0;             ///< out: where the walk stopped
  uint64_t vec = 0, vec_len = 0;     ///< PageRegion[]
  uint64_t max_pages = 0;
  uint64_t category_inverted = 0;
  uint64_t category_mask = 0;        ///< all of these (after inversion)
  uint64_t category_anyof_mask = 0;  ///< at least one of these
  uint64_t return_mask = 0;
};
static_assert(sizeof(PmScanArg) == 96);

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PmScanArg);
inline constexpr uint64_t kPmScanWpMatching = 1 << 0;     ///< flag: write-protect what is returned, in the same step
inline constexpr uint64_t kPmScanCheckWpAsync = 1 << 1;   ///< flag: EPERM where a mapping has no asynchronous protection
inline constexpr uint64_t kPageIsWritten = 1 << 1;        ///< not write-protected by a userfaultfd; absent pages too
inline constexpr uint64_t kPageIsFile = 1 << 2;
inline constexpr uint64_t kPageIsPresent = 1 << 3;
inline constexpr uint64_t kPageIsSwapped = 1 << 4;
inline constexpr uint64_t kPageIsPfnZero = 1 << 5;
inline constexpr uint64_t kPageIsHuge = 1 << 6;
inline constexpr uint64_t kPageIsGuard = 1 << 8;   ///< Linux 6.16

// ---- entries of /proc/PID/pagemap ----

inline constexpr uint64_t kPmPresent = uint64_t{1} << 63;
inline constexpr uint64_t kPmSwap = uint64_t{1} << 62;
inline constexpr uint64_t kPmFile = uint64_t{1} << 61;
inline constexpr uint64_t kPmExclusive = uint64_t{1} << 56;  ///< mapped here only
inline constexpr uint64_t kPmGuard = uint64_t{1} << 58;   ///< Linux 6.15
inline constexpr uint64_t kPmUffdWp = uint64_t{1} << 57;
/// Of a swap entry bits 0-4 are the type; the highest type is that of PTE markers (include/linux/swap.h). Shown only
/// to CAP_SYS_ADMIN, else 0.
inline constexpr uint64_t kPmSwapTypeMask = 31;
inline constexpr uint64_t kPmSwapTypeMarker = 31;

// ---- userfaultfd features beyond Linux 6.1 ----

inline constexpr uint64_t kUffdFeatureWpUnpopulated = 1 << 13;   ///< Linux 6.4
inline constexpr uint64_t kUffdFeatureWpAsync = 1 << 15;         ///< Linux 6.7

// ---- madvise(2): guard regions, Linux 6.13 ----

inline constexpr int kMadvGuardInstall = 102;

// ---- prctl(2): KSM for everything, Linux 6.4 ----

inline constexpr int kPrSetMemoryMerge = 67;
inline constexpr int kPrGetMemoryMerge = 68;

// ---- membarrier(2), Linux 6.3 ----

inline constexpr int kMembarrierGetRegistrations = 1 << 9;

// ---- prctl(2): a table of futexes of its own, Linux 6.17 ----

inline constexpr int kPrFutexHash = 78;
inline constexpr int kFutexHashSetSlots = 1;
inline constexpr int kFutexHashGetSlots = 2;

// ---- prctl(2): names of anonymous mappings, Linux 5.17 ----

inline constexpr int kPrSetVma = 0x53564d41;
inline constexpr int kPrSetVmaAnonName = 0;

}  // namespace ckpt::abi
