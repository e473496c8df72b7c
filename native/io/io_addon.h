// Registers the functions of block I/O and of digesting files with a module.
#pragma once

#include <napi.h>

namespace lunsync {

void register_io(Napi::Env env, Napi::Object exports);

}  // namespace lunsync
