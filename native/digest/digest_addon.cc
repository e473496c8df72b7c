// The face of digest kernels and of encoding towards JavaScript: crc32c and isZero for every day, the rest
// for tests and benchmarks. Arguments that could lead outside of a buffer are refused with a TypeError.
#include "digest/digest_addon.h"

#include <node_api.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "digest/aes.h"
#include "digest/bench.h"
#include "digest/encode.h"
#include "digest/kernel.h"

namespace lunsync {

namespace {

[[noreturn]] void refuse(Napi::Env env, const char* what) { throw Napi::TypeError::New(env, what); }

// Plain Node-API without the C++ wrapper, and one look at each argument: this runs for every PDU.
bool bytes_of(napi_env env, napi_value value, const uint8_t** data, size_t* length) {
  napi_typedarray_type type;
  void* start = nullptr;
  if (napi_get_typedarray_info(env, value, &type, length, &start, nullptr, nullptr) != napi_ok) return false;
  *data = static_cast<const uint8_t*>(start);
  return type == napi_uint8_array;
}

// crc32c(data: Uint8Array, seed?: number): number
napi_value crc32c_function(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  const uint8_t* data;
  size_t length;
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  if (!bytes_of(env, arguments[0], &data, &length)) {
    napi_throw_type_error(env, nullptr, "crc32c: data is no Uint8Array");
    return nullptr;
  }
  uint32_t seed = 0;
  if (count > 1 && napi_get_value_uint32(env, arguments[1], &seed) != napi_ok) {
    napi_valuetype type;
    if (napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_undefined) {
      napi_throw_type_error(env, nullptr, "crc32c: seed is no number");
      return nullptr;
    }
    seed = 0;
  }
  napi_value result;
  napi_create_uint32(env, crc32c(seed, data, length), &result);
  return result;
}

// isZero(data: Uint8Array): boolean
napi_value is_zero_function(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  const uint8_t* data;
  size_t length;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (!bytes_of(env, argument, &data, &length)) {
    napi_throw_type_error(env, nullptr, "isZero: data is no Uint8Array");
    return nullptr;
  }
  napi_value result;
  napi_get_boolean(env, is_zero(data, length), &result);
  return result;
}

Algorithm algorithm_argument(const Napi::CallbackInfo& info, size_t index) {
  const double number = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  const double end = static_cast<double>(kAlgorithmCount);
  if (!(number >= 0 && number < end)) refuse(info.Env(), "unknown algorithm");
  return static_cast<Algorithm>(number);
}

size_t size_argument(const Napi::CallbackInfo& info, size_t index, const char* what) {
  const double number = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 1 && number <= 1e12)) refuse(info.Env(), what);
  return static_cast<size_t>(number);
}

// The kernel's own name, which stays valid, or null for the chosen one.
const char* kernel_argument(const Napi::CallbackInfo& info, size_t index, Algorithm algorithm) {
  if (!info[index].IsString()) return nullptr;
  const std::string name = info[index].As<Napi::String>().Utf8Value();
  const Kernel* kernel = find_kernel(algorithm, name.c_str());
  if (kernel == nullptr) refuse(info.Env(), "this CPU has no such kernel");
  return kernel->name;
}

// digestKernels(): { algorithm, digestBytes, chosen, lanes, available }[]
Napi::Value digest_kernels(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (size_t i = 0; i < kAlgorithmCount; ++i) {
    const Algorithm algorithm = static_cast<Algorithm>(i);
    Napi::Object entry = Napi::Object::New(env);
    Napi::Array names = Napi::Array::New(env);
    for (const char* name : kernels_available(algorithm)) {
      names[names.Length()] = Napi::String::New(env, name);
    }
    entry["algorithm"] = Napi::String::New(env, algorithm_name(algorithm));
    entry["digestBytes"] = Napi::Number::New(env, static_cast<double>(digest_bytes(algorithm)));
    entry["chosen"] = Napi::String::New(env, kernel_chosen(algorithm));
    entry["lanes"] = Napi::Number::New(env, static_cast<double>(lanes_preferred(algorithm)));
    entry["available"] = names;
    list[static_cast<uint32_t>(i)] = entry;
  }
  return list;
}

// digestMessages(algorithm, kernel: string | null, messages: Uint8Array[], sliceBytes): Buffer
Napi::Value digest_messages(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Algorithm algorithm = algorithm_argument(info, 0);
  const char* kernel = kernel_argument(info, 1, algorithm);
  const size_t slice = size_argument(info, 3, "digestMessages: sliceBytes is no positive number");
  if (slice % 128 != 0) refuse(env, "digestMessages: sliceBytes is no multiple of 128");
  if (!info[2].IsArray()) refuse(env, "digestMessages: messages is no array");
  const Napi::Array messages = info[2].As<Napi::Array>();
  const size_t lanes = messages.Length();
  if (lanes == 0) return Napi::Buffer<uint8_t>::New(env, 0);
  std::vector<const uint8_t*> data(lanes);
  size_t bytes = 0;
  for (size_t i = 0; i < lanes; ++i) {
    const Napi::Value message = messages[static_cast<uint32_t>(i)];
    size_t length;
    if (!bytes_of(env, message, &data[i], &length)) refuse(env, "digestMessages: a message is no Uint8Array");
    if (i > 0 && length != bytes) refuse(env, "digestMessages: messages differ in length");
    bytes = length;
  }
  const size_t width = digest_bytes(algorithm);
  auto digests = Napi::Buffer<uint8_t>::New(env, lanes * width);
  Batch batch(algorithm, lanes, kernel);
  batch.start(lanes);
  std::vector<const uint8_t*> rows(lanes);
  for (size_t at = 0; at < bytes; at += slice) {
    for (size_t i = 0; i < lanes; ++i) rows[i] = data[i] + at;
    batch.update(rows.data(), std::min(slice, bytes - at));
  }
  batch.finish(digests.Data(), width);
  return digests;
}

// encodeIdentifiers(identifiers, identifierBytes, blocks, decode, portable): Buffer
Napi::Value encode_identifiers(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint8_t* identifiers;
  const uint8_t* blocks;
  size_t identifiers_length, blocks_length;
  if (!bytes_of(env, info[0], &identifiers, &identifiers_length) ||
      !bytes_of(env, info[2], &blocks, &blocks_length)) {
    refuse(env, "encodeIdentifiers: identifiers and blocks are Uint8Arrays");
  }
  const size_t width = size_argument(info, 1, "encodeIdentifiers: identifierBytes is no positive number");
  const size_t count = blocks_length / kBlockBytes;
  if (blocks_length % kBlockBytes != 0 || identifiers_length != count * width) {
    refuse(env, "encodeIdentifiers: one identifier for each block of 16 bytes");
  }
  const bool decode = info[3].ToBoolean();
  const bool portable = info[4].ToBoolean();
  std::vector<uint8_t> keys(count * kKeyBytes);
  auto out = Napi::Buffer<uint8_t>::New(env, blocks_length);
  derive_keys(identifiers, width, count, keys.data());
  if (portable) {
    (decode ? aes128_decrypt_portable : aes128_encrypt_portable)(keys.data(), blocks, count, out.Data());
  } else {
    (decode ? aes128_decrypt : aes128_encrypt)(keys.data(), blocks, count, out.Data());
  }
  return out;
}

// aesBlocks(keys, blocks, decode, portable): Buffer
Napi::Value aes_blocks(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint8_t* keys;
  const uint8_t* blocks;
  size_t keys_length, blocks_length;
  if (!bytes_of(env, info[0], &keys, &keys_length) || !bytes_of(env, info[1], &blocks, &blocks_length) ||
      keys_length != blocks_length || blocks_length % kBlockBytes != 0) {
    refuse(env, "aesBlocks: one key of 16 bytes for each block of 16 bytes");
  }
  auto out = Napi::Buffer<uint8_t>::New(env, blocks_length);
  const bool decode = info[2].ToBoolean();
  const AesBlocks run = info[3].ToBoolean() ? decode ? aes128_decrypt_portable : aes128_encrypt_portable
                        : decode            ? aes128_decrypt
                                            : aes128_encrypt;
  run(keys, blocks, blocks_length / kBlockBytes, out.Data());
  return out;
}

// digestBenchmark(algorithm, kernel: string | null, extentBytes, totalBytes, milliseconds): number
Napi::Value digest_benchmark_function(const Napi::CallbackInfo& info) {
  const Algorithm algorithm = algorithm_argument(info, 0);
  const char* kernel = kernel_argument(info, 1, algorithm);
  const size_t extent = size_argument(info, 2, "digestBenchmark: extentBytes is no positive number");
  const size_t total = size_argument(info, 3, "digestBenchmark: totalBytes is no positive number");
  const double milliseconds = info[4].ToNumber().DoubleValue();
  return Napi::Number::New(info.Env(), digest_benchmark(algorithm, kernel, extent, total, milliseconds));
}

// memoryReadBenchmark(totalBytes, milliseconds): number
Napi::Value memory_read_benchmark_function(const Napi::CallbackInfo& info) {
  const size_t total = size_argument(info, 0, "memoryReadBenchmark: totalBytes is no positive number");
  return Napi::Number::New(info.Env(), memory_read_benchmark(total, info[1].ToNumber().DoubleValue()));
}

void add_plain(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

}  // namespace

void register_digest(Napi::Env env, Napi::Object exports) {
  add_plain(env, exports, "crc32c", crc32c_function);
  add_plain(env, exports, "isZero", is_zero_function);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports[name] = Napi::Function::New(env, function, name);
  };
  add("digestKernels", digest_kernels);
  add("digestMessages", digest_messages);
  add("encodeIdentifiers", encode_identifiers);
  add("aesBlocks", aes_blocks);
  add("digestBenchmark", digest_benchmark_function);
  add("memoryReadBenchmark", memory_read_benchmark_function);
}

}  // namespace lunsync
