// What the machine itself needs for a like amount of work: the floors of the table. All return seconds.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ckpt::bench {

/// Writes and syncs a plain file of `size` bytes of unique pages.
double write_and_sync(const std::string& file, uint64_t size);
/// Reads `size` bytes at `address` of process `pid` and hashes their pages, on two threads.
double read_and_hash(pid_t pid, uint64_t address, uint64_t size);
/// Touches fresh memory by 4 KiB faults.
double touch_fresh(uint64_t size);
/// Reads a file to its end in 1 MiB pieces.
double read_file_through(const std::string& file);

}  // namespace ckpt::bench
