// The face of SCSI pass-through towards JavaScript; its one caller is src/platform/sg-pass-through.ts.
#include "sg/sg_addon.h"

#include <memory>
#include <string>
#include <vector>

#include "sg/sg_pool.h"

namespace lunsync {

namespace {

void deliver(Napi::Env env, Napi::Function callback, std::nullptr_t*, SgResult* result);
using Deliver = Napi::TypedThreadSafeFunction<std::nullptr_t, SgResult, deliver>;

struct SgState {
  SgLibrary library;
  Deliver wake;
  std::unique_ptr<SgPool> pool;
};

void deliver(Napi::Env env, Napi::Function callback, std::nullptr_t*, SgResult* result) {
  const std::unique_ptr<SgResult> owned(result);
  if (env == nullptr) return;
  Napi::HandleScope scope(env);
  callback.Call({Napi::Number::New(env, static_cast<double>(owned->tag)),
                 Napi::Number::New(env, static_cast<int>(owned->category)), Napi::Number::New(env, owned->status),
                 Napi::Number::New(env, owned->residual), Napi::Number::New(env, owned->os_error),
                 Napi::Buffer<uint8_t>::Copy(env, owned->sense.data(), owned->sense.size()),
                 Napi::String::New(env, owned->transport)});
}

SgState& state_of(const Napi::CallbackInfo& info) { return *static_cast<SgState*>(info.Data()); }

// sgStart(libraries: string[], callback): string | undefined — why it can't be used
Napi::Value sg_start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  SgState& state = state_of(info);
  if (state.pool) return env.Undefined();
  const Napi::Array names = info[0].As<Napi::Array>();
  std::vector<std::string> libraries;
  for (uint32_t i = 0; i < names.Length(); ++i) libraries.push_back(names.Get(i).As<Napi::String>().Utf8Value());
  std::string why = "no name to look for";
  if (!state.library.load(libraries, &why)) return Napi::String::New(env, why);
  state.wake = Deliver::New(env, info[1].As<Napi::Function>(), "lunsync sg", 0, 1);
  state.wake.Unref(env);
  state.pool = std::make_unique<SgPool>(state.library, [&state](SgResult&& result) {
    auto* owned = new SgResult(std::move(result));
    if (state.wake.NonBlockingCall(owned) != napi_ok) delete owned;
  });
  env.AddCleanupHook([&state] { state.pool.reset(); });
  return env.Undefined();
}

// sgOpen(path, writable): number — a descriptor, or a negative errno
Napi::Value sg_open(const Napi::CallbackInfo& info) {
  SgState& state = state_of(info);
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  return Napi::Number::New(info.Env(), state.library.open_device(path.c_str(), !info[1].ToBoolean().Value(), 0));
}

Napi::Value sg_close(const Napi::CallbackInfo& info) {
  state_of(info).library.close_device(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

// sgHold(busy: boolean): while commands are under way the event loop stays alive
Napi::Value sg_hold(const Napi::CallbackInfo& info) {
  SgState& state = state_of(info);
  if (info[0].ToBoolean().Value()) {
    state.wake.Ref(info.Env());
  } else {
    state.wake.Unref(info.Env());
  }
  return info.Env().Undefined();
}

// sgExecute(tag, fd, cdb, dataOut | undefined, dataIn | undefined, timeoutSeconds)
Napi::Value sg_execute(const Napi::CallbackInfo& info) {
  SgState& state = state_of(info);
  SgCommand command;
  command.tag = static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value());
  command.fd = info[1].As<Napi::Number>().Int32Value();
  const auto cdb = info[2].As<Napi::Uint8Array>();
  command.cdb.assign(cdb.Data(), cdb.Data() + cdb.ByteLength());
  if (!info[3].IsUndefined()) {
    const auto data = info[3].As<Napi::Uint8Array>();
    command.data_out = data.Data();
    command.data_bytes = static_cast<int>(data.ByteLength());
  } else if (!info[4].IsUndefined()) {
    auto data = info[4].As<Napi::Uint8Array>();
    command.data_in = data.Data();
    command.data_bytes = static_cast<int>(data.ByteLength());
  }
  command.timeout_seconds = info[5].As<Napi::Number>().Int32Value();
  state.pool->submit(std::move(command));
  return info.Env().Undefined();
}

}  // namespace

void register_sg(Napi::Env env, Napi::Object exports) {
  auto* state = new SgState();  // lives as long as the module: threads and functions point at it
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name, state));
  };
  add("sgStart", sg_start);
  add("sgOpen", sg_open);
  add("sgClose", sg_close);
  add("sgHold", sg_hold);
  add("sgExecute", sg_execute);
}

}  // namespace lunsync
