// Sending on a socket at once, past Node's stream machinery, which costs more than the system call.
#pragma once

#include <napi.h>

namespace lunsync {

void register_socket(Napi::Env env, Napi::Object exports);

}  // namespace lunsync
