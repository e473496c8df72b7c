// The module's face towards Node: every function and class that the addon exports, and nothing else.
#include <napi.h>

#include "digest/digest_addon.h"
#include "io/io_addon.h"
#include "io/socket_addon.h"

namespace lunsync {

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  register_digest(env, exports);
  register_io(env, exports);
  register_socket(env, exports);
  return exports;
}

NODE_API_MODULE(lunsync, init)

}  // namespace lunsync
