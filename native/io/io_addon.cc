// The face of block I/O and digesting towards JavaScript. Arguments are validated by its one caller,
// src/platform/block-file.ts; what would corrupt memory is checked here all the same.
#include "io/io_addon.h"

#include <errno.h>
#include <sched.h>

#include <algorithm>
#include <map>
#include <string>

#include "io/identify.h"
#include "io/io_pool.h"

namespace lunsync {

namespace {

// Everything that one JavaScript environment has running. Threads are joined before the environment ends, so
// that no buffer of it is written to afterwards.
struct Engine {
  Engine(Napi::Env env, Napi::Function callback, size_t digest_threads)
      : completions(env, callback), io(completions), identify(completions, digest_threads) {}
  ~Engine() { completions.close(); }

  CompletionQueue completions;
  IoPool io;
  IdentifyPool identify;
};

struct Addon {
  std::unique_ptr<Engine> engine;
  std::map<uint32_t, std::shared_ptr<BlockFile>> files;
  std::map<uint32_t, std::shared_ptr<const DigestProgram>> programs;
  uint32_t next_id = 1;
};

Addon& addon_of(const Napi::CallbackInfo& info) { return *static_cast<Addon*>(info.Data()); }

[[noreturn]] void refuse(Napi::Env env, const char* what) { throw Napi::TypeError::New(env, what); }

Engine& engine_of(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  if (!addon.engine) refuse(info.Env(), "startIo() has not been called");
  return *addon.engine;
}

uint64_t unsigned_argument(const Napi::CallbackInfo& info, size_t index, const char* what) {
  const double value = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(value >= 0 && value <= 9007199254740991.0) || value != static_cast<double>(static_cast<uint64_t>(value))) {
    refuse(info.Env(), what);
  }
  return static_cast<uint64_t>(value);
}

std::shared_ptr<BlockFile> file_argument(Napi::Env env, Addon& addon, uint64_t id) {
  const auto found = addon.files.find(static_cast<uint32_t>(id));
  if (found == addon.files.end()) refuse(env, "no such open file");
  return found->second;
}

// startIo(callback: (completions: Float64Array) => void, digestThreads: number): void
Napi::Value start_io(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Addon& addon = addon_of(info);
  if (addon.engine) refuse(env, "startIo() was called twice");
  if (!info[0].IsFunction()) refuse(env, "startIo: callback is no function");
  uint64_t threads = unsigned_argument(info, 1, "startIo: digestThreads is no number");
  if (threads == 0) {
    cpu_set_t cpus;
    threads = ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? static_cast<uint64_t>(CPU_COUNT(&cpus)) : 1;
  }
  addon.engine = std::make_unique<Engine>(env, info[0].As<Napi::Function>(), std::min<uint64_t>(threads, 16));
  env.AddCleanupHook([&addon] {
    addon.engine.reset();
    addon.files.clear();
  });
  return env.Undefined();
}

class OpenWorker : public Napi::AsyncWorker {
 public:
  OpenWorker(Napi::Env env, Addon& addon, std::string path, bool writable)
      : Napi::AsyncWorker(env), addon_(addon), path_(std::move(path)), writable_(writable),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise promise() { return deferred_.Promise(); }

  void Execute() override {
    file_ = std::make_shared<BlockFile>();
    error_ = file_->open(path_, writable_);
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::Object result = Napi::Object::New(env);
    result["error"] = Napi::Number::New(env, -error_);
    if (error_ == 0) {
      const BlockFileInfo& file = file_->info();
      const uint32_t id = addon_.next_id++;
      addon_.files.emplace(id, file_);
      result["id"] = Napi::Number::New(env, id);
      result["blockDevice"] = Napi::Boolean::New(env, file.block_device);
      result["bytes"] = Napi::Number::New(env, static_cast<double>(file.bytes));
      result["logicalBlockBytes"] = Napi::Number::New(env, file.logical_block_bytes);
      result["physicalBlockBytes"] = Napi::Number::New(env, file.physical_block_bytes);
      result["device"] = Napi::Number::New(env, static_cast<double>(file.device));
      result["inode"] = Napi::Number::New(env, static_cast<double>(file.inode));
      result["specialDevice"] = Napi::Number::New(env, static_cast<double>(file.special_device));
      result["canUnmap"] = Napi::Boolean::New(env, file.can_unmap);
    }
    deferred_.Resolve(result);
  }

 private:
  Addon& addon_;
  std::string path_;
  bool writable_;
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<BlockFile> file_;
  int error_ = 0;
};

// openFile(path, writable): Promise<{ error: errno, id, … }>
Napi::Value open_file(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsBoolean()) refuse(info.Env(), "openFile(path, writable)");
  auto* worker = new OpenWorker(info.Env(), addon_of(info), info[0].As<Napi::String>().Utf8Value(),
                                info[1].As<Napi::Boolean>().Value());
  worker->Queue();
  return worker->promise();
}

// closeFile(id): what is under way still ends; the descriptor goes with the last of it.
Napi::Value close_file(const Napi::CallbackInfo& info) {
  addon_of(info).files.erase(static_cast<uint32_t>(unsigned_argument(info, 0, "closeFile: no id")));
  return info.Env().Undefined();
}

// submitIo(operations: Float64Array (7 numbers each: kind, file, flags, offset, bytes, tag, buffer count),
//          buffers: Uint8Array[]): void
Napi::Value submit_io(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Engine& engine = engine_of(info);
  Addon& addon = addon_of(info);
  if (!info[0].IsTypedArray() || !info[1].IsArray()) refuse(env, "submitIo(operations, buffers)");
  const Napi::Float64Array numbers = info[0].As<Napi::Float64Array>();
  const Napi::Array buffers = info[1].As<Napi::Array>();
  constexpr size_t kNumbers = 7;
  std::vector<IoRequest> requests(numbers.ElementLength() / kNumbers);
  uint32_t next_buffer = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const double* op = numbers.Data() + i * kNumbers;
    for (size_t k = 0; k < kNumbers; ++k) {
      if (!(op[k] >= 0 && op[k] <= 9007199254740991.0)) refuse(env, "submitIo: a number is out of range");
    }
    IoRequest& request = requests[i];
    if (op[0] > static_cast<double>(IoKind::grow)) refuse(env, "submitIo: unknown kind");
    request.kind = static_cast<IoKind>(static_cast<uint8_t>(op[0]));
    request.file = file_argument(env, addon, static_cast<uint64_t>(op[1]));
    request.flags = static_cast<uint32_t>(op[2]);
    request.offset = static_cast<uint64_t>(op[3]);
    request.bytes = static_cast<uint64_t>(op[4]);
    request.tag = static_cast<uint64_t>(op[5]);
    uint64_t bytes = 0;
    for (uint32_t k = 0; k < static_cast<uint32_t>(op[6]); ++k) {
      const Napi::Value value = buffers.Get(next_buffer++);
      if (!value.IsTypedArray()) refuse(env, "submitIo: a buffer is missing");
      Napi::Uint8Array buffer = value.As<Napi::Uint8Array>();
      request.iov.push_back({buffer.Data(), buffer.ByteLength()});
      bytes += buffer.ByteLength();
    }
    const bool transfers = request.kind == IoKind::read || request.kind == IoKind::write;
    if (transfers && (bytes != request.bytes || bytes == 0)) refuse(env, "submitIo: buffers do not add up");
  }
  engine.completions.began(env, requests.size());
  engine.io.submit(std::move(requests));
  return env.Undefined();
}

// readNow(file, offset, buffer), writeNow(file, offset, buffers): what takes no waiting for a device is done on the
// calling thread. 0: all of it was done; 1: it would have to wait; 2: nobody knows, for this file.
constexpr int kNowDone = 0, kNowWaits = 1, kNowUnknown = 2;

Napi::Value now_result(Napi::Env env, int result) {
  return Napi::Number::New(env, result == 0 ? kNowDone : result == -EOPNOTSUPP ? kNowUnknown : kNowWaits);
}

Napi::Value read_now(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto file = file_argument(env, addon_of(info), unsigned_argument(info, 0, "readNow: no id"));
  const uint64_t offset = unsigned_argument(info, 1, "readNow: no offset");
  if (!info[2].IsTypedArray()) refuse(env, "readNow(file, offset, buffer)");
  Napi::Uint8Array buffer = info[2].As<Napi::Uint8Array>();
  const iovec iov = {buffer.Data(), buffer.ByteLength()};
  if (iov.iov_len == 0) refuse(env, "readNow: nothing to read");
  return now_result(env, file->read_cached(offset, &iov, 1));
}

Napi::Value write_now(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto file = file_argument(env, addon_of(info), unsigned_argument(info, 0, "writeNow: no id"));
  const uint64_t offset = unsigned_argument(info, 1, "writeNow: no offset");
  if (!info[2].IsArray()) refuse(env, "writeNow(file, offset, buffers)");
  const Napi::Array buffers = info[2].As<Napi::Array>();
  constexpr uint32_t kPiecesMax = 16;
  iovec iov[kPiecesMax];
  const uint32_t count = buffers.Length();
  if (count == 0 || count > kPiecesMax) return now_result(env, -EAGAIN);
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::Value value = buffers.Get(i);
    if (!value.IsTypedArray()) refuse(env, "writeNow: a buffer is missing");
    Napi::Uint8Array buffer = value.As<Napi::Uint8Array>();
    iov[i].iov_base = buffer.Data();
    iov[i].iov_len = buffer.ByteLength();
  }
  return now_result(env, file->write_cached(offset, iov, static_cast<int>(count)));
}

// compileDigest(operations: Uint8Array): { id, identifierBytes }
Napi::Value compile_digest(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsTypedArray()) refuse(env, "compileDigest(operations)");
  const Napi::Uint8Array ops = info[0].As<Napi::Uint8Array>();
  const char* error = nullptr;
  std::unique_ptr<DigestProgram> program = DigestProgram::compile(ops.Data(), ops.ElementLength(), &error);
  if (!program) refuse(env, error);
  Napi::Object result = Napi::Object::New(env);
  Addon& addon = addon_of(info);
  const uint32_t id = addon.next_id++;
  result["id"] = Napi::Number::New(env, id);
  result["identifierBytes"] = Napi::Number::New(env, static_cast<double>(program->identifier_bytes()));
  addon.programs.emplace(id, std::move(program));
  return result;
}

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

Bytes bytes_property(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsTypedArray()) return {};
  Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

uint64_t number_property(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740991.0)) refuse(object.Env(), name);
  return static_cast<uint64_t>(number);
}

// identify({ tag, file, program, offset, bytes, extentBytes, blockBytes, direct, output, width, initialValue,
//            input, values, memory }): void. `file` 0 means that `memory` holds the extents.
Napi::Value identify(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Engine& engine = engine_of(info);
  Addon& addon = addon_of(info);
  if (!info[0].IsObject()) refuse(env, "identify(request)");
  const Napi::Object object = info[0].As<Napi::Object>();
  IdentifyRequest request;
  const auto program = addon.programs.find(static_cast<uint32_t>(number_property(object, "program")));
  if (program == addon.programs.end()) refuse(env, "identify: no such digest program");
  request.program = program->second;
  request.tag = number_property(object, "tag");
  request.offset = number_property(object, "offset");
  request.bytes = number_property(object, "bytes");
  request.extent_bytes = number_property(object, "extentBytes");
  request.block_bytes = static_cast<uint32_t>(number_property(object, "blockBytes"));
  request.direct = object.Get("direct").ToBoolean();
  request.width = number_property(object, "width");
  const uint64_t output = number_property(object, "output");
  if (output > 2) refuse(env, "identify: unknown output");
  request.output = static_cast<IdentifyOutput>(output);
  if (request.bytes == 0 || request.extent_bytes == 0 || request.block_bytes == 0 ||
      request.bytes / request.extent_bytes > 0xffffffu) {
    refuse(env, "identify: bad geometry");
  }
  const bool encoded = request.output != IdentifyOutput::identifiers;
  if (encoded ? request.width == 0 || request.width > kBlockBytes
              : request.width != request.program->identifier_bytes()) {
    refuse(env, "identify: bad width");
  }
  const uint64_t file = number_property(object, "file");
  if (file != 0) {
    request.file = file_argument(env, addon, file);
  } else {
    const Bytes memory = bytes_property(object, "memory");
    if (memory.length != request.bytes) refuse(env, "identify: memory does not hold the extents");
    request.memory = memory.data;
  }
  const Bytes values = bytes_property(object, "values");
  if (values.length < request.count() * request.width) refuse(env, "identify: no room for the values");
  request.values = values.data;
  if (encoded) {
    const Bytes initial = bytes_property(object, "initialValue");
    if (initial.length != request.initial_value.size()) refuse(env, "identify: initialValue has 16 bytes");
    std::copy_n(initial.data, initial.length, request.initial_value.begin());
  }
  if (request.output == IdentifyOutput::decode) {
    const Bytes input = bytes_property(object, "input");
    if (input.length < request.count() * kBlockBytes) refuse(env, "identify: too few values to decode");
    request.input = input.data;
  }
  engine.completions.began(env, 1);
  engine.identify.submit(std::move(request));
  return env.Undefined();
}

}  // namespace

void register_io(Napi::Env env, Napi::Object exports) {
  auto* addon = new Addon();
  env.AddCleanupHook([](Addon* data) { delete data; }, addon);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports[name] = Napi::Function::New(env, function, name, addon);
  };
  add("startIo", start_io);
  add("openFile", open_file);
  add("closeFile", close_file);
  add("submitIo", submit_io);
  add("readNow", read_now);
  add("writeNow", write_now);
  add("compileDigest", compile_digest);
  add("identify", identify);
}

}  // namespace lunsync
