// The face of SCSI pass-through towards JavaScript: an addon of its own, which only those load who use it. Arguments are
// validated by its one caller, src/platform/pass-through.ts; what would corrupt memory is checked here all the same.
#include <errno.h>
#include <napi.h>

#include <map>

#include "sg/pass_through.h"

namespace lunsync {

namespace {

// Results on their way to JavaScript. Threads may push when the environment is gone.
class Results {
 public:
  Results(Napi::Env env, Napi::Function callback)
      : wake_(Wake::New(env, callback, "lunsync pass-through", 0, 1, this)) {
    wake_.Unref(env);
  }

  void push(std::unique_ptr<PassThroughCommand> command) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    waiting_.push_back(std::move(command));
    if (waiting_.size() == 1) wake_.NonBlockingCall();
  }

  // While something is outstanding the event loop stays alive. Called on the JavaScript thread.
  void began(Napi::Env env) {
    if (outstanding_++ == 0) wake_.Ref(env);
  }
  void ended(Napi::Env env) {
    if (--outstanding_ == 0) wake_.Unref(env);
  }

  void close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;  // Node itself releases the wake function when the environment ends
    waiting_.clear();
  }

 private:
  static void deliver(Napi::Env env, Napi::Function callback, Results* results, void*) {
    std::vector<std::unique_ptr<PassThroughCommand>> taken;
    {
      std::lock_guard<std::mutex> lock(results->mutex_);
      taken.swap(results->waiting_);
    }
    if (env == nullptr) return;
    for (const auto& command : taken) {
      Napi::HandleScope scope(env);
      Napi::Object result = Napi::Object::New(env);
      result["tag"] = Napi::Number::New(env, static_cast<double>(command->tag));
      result["osError"] = Napi::Number::New(env, command->os_error);
      result["refused"] = Napi::Boolean::New(env, command->refused);
      result["timedOut"] = Napi::Boolean::New(env, command->timed_out);
      result["category"] = Napi::Number::New(env, command->category);
      result["status"] = Napi::Number::New(env, command->status);
      result["hostStatus"] = Napi::Number::New(env, command->host_status);
      result["transportWords"] = Napi::String::New(env, command->transport_words);
      result["residual"] = Napi::Number::New(env, command->residual);
      result["dataInBytes"] = Napi::Number::New(env, static_cast<double>(command->data_in_bytes));
      result["sense"] = Napi::Buffer<uint8_t>::Copy(env, command->sense, command->sense_bytes);
      callback.Call({result});
    }
  }
  using Wake = Napi::TypedThreadSafeFunction<Results, void, deliver>;

  std::mutex mutex_;
  std::vector<std::unique_ptr<PassThroughCommand>> waiting_;
  bool closed_ = false;
  size_t outstanding_ = 0;
  Wake wake_;
};

struct Addon {
  const SgUtils* library = nullptr;
  std::shared_ptr<Results> results;  // shared with the threads, as is the loan
  std::shared_ptr<Loan> loan = std::make_shared<Loan>();
  std::map<uint32_t, std::shared_ptr<PassThroughDevice>> devices;
  uint32_t next_id = 1;
};

Addon& addon_of(const Napi::CallbackInfo& info) { return *static_cast<Addon*>(info.Data()); }

[[noreturn]] void refuse(Napi::Env env, const char* what) { throw Napi::TypeError::New(env, what); }

double number_of(Napi::Env env, const Napi::Value& value, const char* what) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740991.0)) refuse(env, what);
  return number;
}

Piece piece_of(Napi::Env env, const Napi::Value& value) {
  if (!value.IsTypedArray()) refuse(env, "submit: a buffer is missing");
  Napi::Uint8Array bytes = value.As<Napi::Uint8Array>();
  return {bytes.Data(), bytes.ByteLength()};
}

// start(names: string[], callback: (result) => void): string. Empty, or why there is no library.
Napi::Value start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Addon& addon = addon_of(info);
  if (!info[0].IsArray() || !info[1].IsFunction()) refuse(env, "start(names, callback)");
  if (addon.library != nullptr) refuse(env, "start() was called twice");
  const Napi::Array list = info[0].As<Napi::Array>();
  std::vector<std::string> names;
  for (uint32_t i = 0; i < list.Length(); ++i) names.push_back(list.Get(i).ToString().Utf8Value());
  std::string error;
  addon.library = load_sgutils(names, &error);
  if (addon.library == nullptr) return Napi::String::New(env, error.empty() ? "it was not found" : error);
  addon.results = std::make_shared<Results>(env, info[1].As<Napi::Function>());
  new std::shared_ptr<Results>(addon.results);  // for good: Node calls it once more when the environment has ended
  env.AddCleanupHook([&addon] {
    addon.loan->end_all();
    addon.results->close();
    addon.devices.clear();
  });
  return Napi::String::New(env, "");
}

class OpenWorker : public Napi::AsyncWorker {
 public:
  OpenWorker(Napi::Env env, Addon& addon, std::string path, bool writable, std::string claim)
      : Napi::AsyncWorker(env), addon_(addon), path_(std::move(path)), writable_(writable), claim_(std::move(claim)),
        device_(std::make_shared<PassThroughDevice>(*addon.library)), deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise promise() { return deferred_.Promise(); }

  void Execute() override { error_ = device_->open(path_, writable_, claim_, &claimed_); }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::Object result = Napi::Object::New(env);
    result["error"] = Napi::Number::New(env, -error_);
    result["claimed"] = Napi::Boolean::New(env, claimed_);
    if (error_ == 0) {
      const uint32_t id = addon_.next_id++;
      addon_.devices.emplace(id, device_);
      result["id"] = Napi::Number::New(env, id);
    }
    deferred_.Resolve(result);
  }

 private:
  Addon& addon_;
  std::string path_;
  bool writable_;
  std::string claim_;
  bool claimed_ = false;
  std::shared_ptr<PassThroughDevice> device_;
  Napi::Promise::Deferred deferred_;
  int error_ = 0;
};

// open(path, writable, claim): Promise<{ error: errno, claimed, id }>
Napi::Value open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Addon& addon = addon_of(info);
  if (addon.library == nullptr) refuse(env, "start() has not succeeded");
  if (!info[0].IsString() || !info[1].IsBoolean() || !info[2].IsString()) refuse(env, "open(path, writable, claim)");
  auto* worker = new OpenWorker(env, addon, info[0].As<Napi::String>().Utf8Value(), info[1].As<Napi::Boolean>().Value(),
                                info[2].As<Napi::String>().Utf8Value());
  worker->Queue();
  return worker->promise();
}

// close(id): what is under way still ends; the descriptors go with the last of it.
Napi::Value close(const Napi::CallbackInfo& info) {
  addon_of(info).devices.erase(static_cast<uint32_t>(number_of(info.Env(), info[0], "close: no id")));
  return info.Env().Undefined();
}

// submit(tag, device, cdb, dataOut: Uint8Array[], dataIn: Uint8Array | undefined, timeoutSeconds): void
Napi::Value submit(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Addon& addon = addon_of(info);
  auto command = std::make_unique<PassThroughCommand>();
  command->tag = static_cast<uint64_t>(number_of(env, info[0], "submit: no tag"));
  const auto device = addon.devices.find(static_cast<uint32_t>(number_of(env, info[1], "submit: no device")));
  if (device == addon.devices.end()) refuse(env, "submit: no such open device");
  command->device = device->second;
  const Piece cdb = piece_of(env, info[2]);
  command->cdb.assign(cdb.data, cdb.data + cdb.length);
  if (!info[3].IsArray()) refuse(env, "submit: dataOut is no array");
  constexpr size_t kBytesMax = 64u << 20;
  size_t bytes = 0;
  const Napi::Array pieces = info[3].As<Napi::Array>();
  for (uint32_t i = 0; i < pieces.Length(); ++i) {
    command->data_out.push_back(piece_of(env, pieces.Get(i)));
    bytes += command->data_out.back().length;
  }
  if (!info[4].IsUndefined()) command->data_in = piece_of(env, info[4]);
  if (bytes > 0 && command->data_in.length > 0) refuse(env, "submit: data goes one way");
  if (bytes > kBytesMax || command->data_in.length > kBytesMax) refuse(env, "submit: too much data");
  const double seconds = number_of(env, info[5], "submit: no timeout");
  if (seconds < 1 || seconds > 1e6) refuse(env, "submit: the timeout is out of range");
  command->timeout_seconds = static_cast<int>(seconds);
  addon.results->began(env);
  addon.loan->lend(command->tag);
  submit_pass_through(*addon.library, std::move(command), addon.loan,
                      [results = addon.results](std::unique_ptr<PassThroughCommand> done) {
                        results->push(std::move(done));
                      });
  return env.Undefined();
}

// release(tag): the loan of a command's buffers is over, because its result has come or is not waited for any more.
Napi::Value release(const Napi::CallbackInfo& info) {
  addon_of(info).loan->end(static_cast<uint64_t>(number_of(info.Env(), info[0], "release: no tag")));
  addon_of(info).results->ended(info.Env());
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* addon = new Addon();
  env.AddCleanupHook([](Addon* data) { delete data; }, addon);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports[name] = Napi::Function::New(env, function, name, addon);
  };
  add("start", start);
  add("open", open);
  add("close", close);
  add("submit", submit);
  add("release", release);
  return exports;
}

NODE_API_MODULE(lunsync_sg, init)

}  // namespace

}  // namespace lunsync
