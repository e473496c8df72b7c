// Registers the functions of digest kernels and of encoding with a module.
#pragma once

#include <napi.h>

namespace lunsync {

void register_digest(Napi::Env env, Napi::Object exports);

}  // namespace lunsync
