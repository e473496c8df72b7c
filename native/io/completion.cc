#include "io/completion.h"

namespace lunsync {

CompletionQueue::CompletionQueue(Napi::Env env, Napi::Function callback)
    : wake_(Wake::New(env, callback, "lunsync completions", 0, 1, this)) {
  wake_.Unref(env);
}

void CompletionQueue::push(const Completion& completion) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  waiting_.push_back(completion);
  if (woken_) return;
  woken_ = true;
  wake_.NonBlockingCall();
}

void CompletionQueue::began(Napi::Env env, size_t count) {
  if (outstanding_ == 0 && count > 0) wake_.Ref(env);
  outstanding_ += count;
}

void CompletionQueue::close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;  // Node itself releases the wake function when the environment ends
}

void CompletionQueue::deliver(Napi::Env env, Napi::Function callback, CompletionQueue* queue, void*) {
  {
    std::lock_guard<std::mutex> lock(queue->mutex_);
    queue->taken_.swap(queue->waiting_);
    queue->woken_ = false;
  }
  std::vector<Completion>& taken = queue->taken_;
  if (env == nullptr || taken.empty()) {
    taken.clear();
    return;
  }
  Napi::HandleScope scope(env);
  Napi::Float64Array numbers = Napi::Float64Array::New(env, taken.size() * 4);
  for (size_t i = 0; i < taken.size(); ++i) {
    numbers[i * 4] = static_cast<double>(taken[i].tag);
    numbers[i * 4 + 1] = static_cast<double>(taken[i].result);
    numbers[i * 4 + 2] = static_cast<double>(taken[i].detail);
    numbers[i * 4 + 3] = static_cast<double>(taken[i].error);
  }
  queue->outstanding_ -= taken.size();
  if (queue->outstanding_ == 0) queue->wake_.Unref(env);
  taken.clear();
  callback.Call({numbers});
}

}  // namespace lunsync
