// SCSI pass-through for JavaScript: sgStart, sgOpen, sgClose, sgExecute.
#pragma once

#include <napi.h>

namespace lunsync {

void register_sg(Napi::Env env, Napi::Object exports);

}  // namespace lunsync
