#include "engine/process/proc_limits.h"

#include <iterator>
#include <string_view>

#include "engine/base/error.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

// By resource number (fs/proc/base.c, lnames).
constexpr const char* kNames[] = {
    "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
    "Max core file size", "Max resident set",  "Max processes",         "Max open files",
    "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
    "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout",
};
static_assert(std::size(kNames) == RLIM_NLIMITS);

uint64_t parse_value(const std::string& word, const std::string& where) {
  if (word == "unlimited") return RLIM64_INFINITY;
  const auto value = parse_u64(word);
  if (!value) fail(EINVAL, "{}: '{}' is not a limit", where, escape(word));
  return *value;
}

}  // namespace

const char* limit_name(int resource) { return kNames[resource]; }

// One line a limit: name padded to 25 columns, soft, hard, unit.
rlimit64 parse_limit(const std::string& text, int resource, const std::string& where) {
  const std::string_view name = limit_name(resource);
  const size_t at = text.find(fmt::format("\n{} ", name));
  if (at == std::string::npos) fail(EINVAL, "{}: the line '{}' is missing", where, name);
  const size_t begin = at + 1 + name.size();
  const auto words = split_words(std::string_view(text).substr(begin, text.find('\n', begin) - begin));
  if (words.size() < 2) fail(EINVAL, "{}: the line '{}' has no two values", where, name);
  return {parse_value(words[0], where), parse_value(words[1], where)};
}

}  // namespace ckpt
