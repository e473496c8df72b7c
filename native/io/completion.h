// Results on their way from the addon's threads to JavaScript.
//
// Threads push completions at any time; JavaScript is woken once for all that are waiting, however many there
// are, and takes them in one call. The queue is bounded by the number of requests outstanding.
#pragma once

#include <napi.h>

#include <cstdint>
#include <mutex>
#include <vector>

namespace lunsync {

struct Completion {
  uint64_t tag = 0;     // chosen by JavaScript
  int64_t result = 0;   // a count, or a negative errno
  int64_t detail = -1;  // byte offset that the error is about, or -1
  int32_t error = 0;    // errno of a partial result, or 0
};

class CompletionQueue {
 public:
  // `callback(completions: Float64Array)` gets 4 numbers each: tag, result, detail, error.
  CompletionQueue(Napi::Env env, Napi::Function callback);

  void push(const Completion& completion);

  // While something is outstanding the event loop stays alive. Both are called on the JavaScript thread.
  void began(Napi::Env env, size_t count);
  // After this no callback comes any more; threads may still push.
  void close();

 private:
  static void deliver(Napi::Env env, Napi::Function callback, CompletionQueue* queue, void*);
  using Wake = Napi::TypedThreadSafeFunction<CompletionQueue, void, deliver>;

  std::mutex mutex_;
  std::vector<Completion> waiting_;
  std::vector<Completion> taken_;
  bool woken_ = false;
  bool closed_ = false;
  size_t outstanding_ = 0;
  Wake wake_;
};

}  // namespace lunsync
