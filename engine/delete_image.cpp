// delete_image(): the end of an image, and of what waits for its resume.
#include <algorithm>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "engine/kinds/inet_socket.h"
#include "engine/kinds/peer_hold.h"
#include "engine/make_room.h"

namespace ckpt {

namespace {

/// What is damaged holds nobody up: such an image is to be deleted all the more.
std::string hold_of(const ImageSource& image) {
  try {
    return recorded_hold(image);
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

void end_hold_of(const ImageSource& image) {
  const std::string hold = hold_of(image);
  if (!hold.empty()) end_peer_hold(hold);
}

void delete_image(Store& store, const std::string& name, uint64_t id) {
  const auto image = store.open_image(name);
  const std::string hold = hold_of(*image);
  const ManifestHeader header = image->info().header;
  store.delete_image(name, id);
  if (hold.empty()) return;
  const auto is_copy = [&](const ImageInfo& other) {
    return other.header.pid == header.pid && other.header.time_ns == header.time_ns;
  };
  if (std::ranges::none_of(store.images(), is_copy)) end_peer_hold(hold);
}

}  // namespace ckpt
