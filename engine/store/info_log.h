// RocksDB's own messages, in the file LOG of the store. RocksDB 7.8 would write them itself, and abort on an assertion at
// the next message after one for which the disk had no room (WritableFileWriter::Append). Here such a message is lost.
#pragma once

#include <rocksdb/env.h>

#include <memory>
#include <string>

namespace ckpt {

/// Appends warnings and errors to DIR/LOG; where it has become large, it is LOG.old first. Never fails. Thread-safe.
std::shared_ptr<rocksdb::Logger> open_info_log(const std::string& dir);

}  // namespace ckpt
