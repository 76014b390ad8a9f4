#include "engine/memory/vdso_code.h"

#include <elf.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/memory/elf_headers.h"

namespace ckpt {
namespace {

constexpr std::string_view kPrefix = "__vdso_";
constexpr size_t kMaxSymbols = 1024;             // a vDSO has about fifteen
constexpr size_t kMaxName = 256;

/// Reads within the bounds of the image only.
class Image {
 public:
  Image(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  bool read(std::span<std::byte> to, uint64_t offset) const {
    if (offset > bytes_.size() || to.size() > bytes_.size() - offset) return false;
    if (!to.empty()) memcpy(to.data(), bytes_.data() + offset, to.size());
    return true;
  }
  template <typename T>
  T get(uint64_t offset) const {
    T value{};
    if (!read(std::as_writable_bytes(std::span(&value, 1)), offset)) bad("a table reaches beyond its end");
    return value;
  }
  std::string text(uint64_t offset) const {
    if (offset >= bytes_.size()) bad("a name lies beyond its end");
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + offset, bytes_.size() - offset);
    const size_t end = rest.substr(0, kMaxName).find('\0');
    if (end == std::string_view::npos) bad("a name does not end");
    return std::string(rest.substr(0, end));
  }
  [[noreturn]] void bad(const char* what) const { fail(EINVAL, "{}: is no vDSO: {}", where_, what); }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
};

/// What the dynamic section tells, as offsets into the image.
struct Tables {
  std::optional<uint64_t> symbols, names, hash, gnu_hash;
  uint64_t bias = 0;             ///< of addresses against offsets
};

Tables find_tables(const Image& image) {
  Tables tables;
  std::optional<Elf64_Phdr> load, dynamic;
  for (const Elf64_Phdr& segment :
       read_program_headers([&](std::span<std::byte> to, uint64_t at) { return image.read(to, at); })) {
    if (segment.p_type == PT_LOAD && !load) load = segment;
    if (segment.p_type == PT_DYNAMIC) dynamic = segment;
  }
  if (!load || !dynamic) image.bad("it has no dynamic section");
  // Linked for address 0 or any other; the kernel maps the file as it is.
  tables.bias = load->p_vaddr - load->p_offset;
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic->p_filesz; at += sizeof(Elf64_Dyn)) {
    const auto entry = image.get<Elf64_Dyn>(dynamic->p_offset + at);
    const uint64_t value = entry.d_un.d_ptr - tables.bias;
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_SYMTAB) tables.symbols = value;
    if (entry.d_tag == DT_STRTAB) tables.names = value;
    if (entry.d_tag == DT_HASH) tables.hash = value;
    if (entry.d_tag == DT_GNU_HASH) tables.gnu_hash = value;
  }
  if (!tables.symbols || !tables.names) image.bad("it has no symbols");
  return tables;
}

/// Only the hash tables tell how many symbols there are. DT_HASH has the number; of DT_GNU_HASH the highest bucket's
/// chain must be followed to its last entry, which has bit 0 set.
uint64_t count_symbols(const Image& image, const Tables& tables) {
  if (tables.hash) return image.get<uint32_t>(*tables.hash + 4);
  if (!tables.gnu_hash) image.bad("it has no hash table");
  const uint64_t at = *tables.gnu_hash;
  const uint64_t buckets = image.get<uint32_t>(at), first = image.get<uint32_t>(at + 4);
  const uint64_t bloom = image.get<uint32_t>(at + 8);
  if (buckets > kMaxSymbols || bloom > kMaxSymbols) image.bad("its hash table is too large");
  const uint64_t bucket_table = at + 16 + bloom * sizeof(uint64_t);
  const uint64_t chains = bucket_table + buckets * sizeof(uint32_t);
  uint64_t last = 0;
  for (uint64_t i = 0; i < buckets; ++i) {
    last = std::max<uint64_t>(last, image.get<uint32_t>(bucket_table + i * sizeof(uint32_t)));
  }
  if (last < first) return first;
  while ((image.get<uint32_t>(chains + (last - first) * sizeof(uint32_t)) & 1) == 0) ++last;
  return last + 1;
}

using Code = std::vector<std::byte>;

void append(Code& code, std::initializer_list<unsigned> bytes) {
  for (const unsigned byte : bytes) code.push_back(static_cast<std::byte>(byte));
}

template <typename T>
void append_value(Code& code, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  code.insert(code.end(), bytes.begin(), bytes.end());
}

/// rax is nobody's at the begin of a function (System V ABI, but for a variable number of arguments).
Code jump_to(uint64_t address) {
  Code code;
  append(code, {0x48, 0xb8});    // mov $address, %rax
  append_value(code, address);
  append(code, {0xff, 0xe0});    // jmp *%rax
  return code;
}

/// All take their first three arguments where the kernel wants them.
Code system_call(long nr) {
  Code code;
  append(code, {0xb8});          // mov $nr, %eax
  append_value(code, static_cast<int32_t>(nr));
  append(code, {0x0f, 0x05, 0xc3});
  return code;
}

Code failure(int err) {
  Code code;
  append(code, {0x48, 0xc7, 0xc0});  // mov $-err, %rax
  append_value(code, static_cast<int32_t>(-err));
  append(code, {0xc3});
  return code;
}

Code replacement(const std::string& name, const std::vector<VdsoFunction>& here, uint64_t base) {
  static const std::map<std::string_view, long> calls = {
      {"clock_gettime", SYS_clock_gettime}, {"clock_getres", SYS_clock_getres}, {"gettimeofday", SYS_gettimeofday},
      {"time", SYS_time},                   {"getcpu", SYS_getcpu},             {"getrandom", SYS_getrandom}};
  const auto same = std::find_if(here.begin(), here.end(), [&](const auto& f) { return f.name == name; });
  if (same != here.end()) return jump_to(base + same->offset);
  const auto call = calls.find(name);
  return call != calls.end() ? system_call(call->second) : failure(ENOSYS);
}

}  // namespace

std::vector<VdsoFunction> vdso_functions(std::span<const std::byte> code, const std::string& where) {
  const Image image(code, where);
  const Tables tables = find_tables(image);
  const uint64_t count = count_symbols(image, tables);
  if (count > kMaxSymbols) image.bad("it has too many symbols");
  std::map<uint64_t, VdsoFunction> functions;
  for (uint64_t i = 1; i < count; ++i) {
    const auto symbol = image.get<Elf64_Sym>(*tables.symbols + i * sizeof(Elf64_Sym));
    if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
    const uint64_t offset = symbol.st_value - tables.bias;
    if (offset >= code.size() || symbol.st_size > code.size() - offset) {
      image.bad("a function lies beyond its end");
    }
    std::string name = image.text(*tables.names + symbol.st_name);
    if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
    // Each stands there twice, as clock_gettime and as __vdso_clock_gettime.
    functions.try_emplace(offset, VdsoFunction{name, offset, symbol.st_size});
  }
  std::vector<VdsoFunction> sorted;
  for (auto& [offset, function] : functions) sorted.push_back(std::move(function));
  return sorted;
}

void redirect_vdso(std::span<std::byte> code, const std::string& where, const std::vector<VdsoFunction>& here,
                   uint64_t base) {
  for (const VdsoFunction& function : vdso_functions(code, where)) {
    const Code jump = replacement(function.name, here, base);
    if (jump.size() > function.size) {
      fail(ENOEXEC, "{}: the function {} of another kernel's vDSO is too short to be replaced ({} bytes)", where,
           escape(function.name), function.size);
    }
    std::copy(jump.begin(), jump.end(), code.begin() + static_cast<ptrdiff_t>(function.offset));
  }
}

}  // namespace ckpt
