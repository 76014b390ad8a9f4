// Runs a fuzz target on every file of its corpus, and on damaged copies of each: cut short at every place,
// and with single bytes changed.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kMostCuts = 2000;

void run(const std::string& input) {
  // A copy of the exact size on the heap, so that a sanitizer sees a read beyond the end.
  const std::string exact(input.data(), input.size());
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(exact.data()), exact.size());
}

void run_damaged(const std::string& input) {
  const size_t step = input.size() / kMostCuts + 1;
  for (size_t at = 0; at < input.size(); at += step) {
    run(input.substr(0, at));
    for (const char byte : {'\0', '\n', '9', '-', ' ', '\xff'}) {
      std::string changed = input;
      changed[at] = byte;
      run(changed);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
    return 2;
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(in), {}};
    run(content);
    run_damaged(content);
    ++files;
  }
  std::printf("%d files replayed\n", files);
  return files > 0 ? 0 : 1;
}
