#include "io/socket_addon.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <vector>

namespace lunsync {

namespace {

constexpr uint32_t kPiecesMax = 1024;  // of one call (IOV_MAX)

// sendNow(fd, pieces: Uint8Array[]): the bytes that the kernel took of the first pieces, without waiting; 0 if it takes
// none, whatever the reason: who then writes the ordinary way finds it out.
Napi::Value send_now(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsNumber() || !info[1].IsArray()) throw Napi::TypeError::New(env, "sendNow(fd, pieces)");
  const Napi::Array pieces = info[1].As<Napi::Array>();
  const uint32_t count = std::min(pieces.Length(), kPiecesMax);
  thread_local std::vector<iovec> iov;
  iov.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::Value value = pieces.Get(i);
    if (!value.IsTypedArray()) throw Napi::TypeError::New(env, "sendNow: a piece is missing");
    Napi::Uint8Array piece = value.As<Napi::Uint8Array>();
    iov[i].iov_base = piece.Data();
    iov[i].iov_len = piece.ByteLength();
  }
  msghdr message = {};
  message.msg_iov = iov.data();
  message.msg_iovlen = count;
  const ssize_t sent = ::sendmsg(info[0].As<Napi::Number>().Int32Value(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  return Napi::Number::New(env, sent < 0 ? 0 : static_cast<double>(sent));
}

}  // namespace

void register_socket(Napi::Env env, Napi::Object exports) {
  exports["sendNow"] = Napi::Function::New(env, send_now, "sendNow");
}

}  // namespace lunsync
