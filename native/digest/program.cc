#include "digest/program.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace lunsync {

namespace {
constexpr uint8_t kConcat = 0x10;
constexpr uint8_t kHash = 0x20;
}  // namespace

std::unique_ptr<DigestProgram> DigestProgram::compile(const uint8_t* ops, size_t count, const char** error) {
  const auto fail = [error](const char* reason) {
    *error = reason;
    return nullptr;
  };
  if (count == 0 || count > kOpsMax) return fail("a digest program has 1 to 64 operations");
  auto program = std::make_unique<DigestProgram>();
  std::vector<size_t> stack;  // lengths
  size_t total = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t op = ops[i];
    if (op == kConcat) {
      if (stack.size() < 2) return fail("concat needs two values");
      const size_t top = stack.back();
      stack.pop_back();
      stack.back() += top;
    } else {
      const uint8_t number = op & 0x0f;
      if ((op & 0xf0) != 0 && (op & 0xf0) != kHash) return fail("unknown operation");
      if (number >= kAlgorithmCount) return fail("unknown algorithm");
      const Algorithm algorithm = static_cast<Algorithm>(number);
      if (op & kHash) {
        if (stack.empty()) return fail("hash needs a value");
        total -= stack.back();
        stack.back() = digest_bytes(algorithm);
        total += stack.back();
      } else {
        auto& leaves = program->leaves_;
        if (std::find(leaves.begin(), leaves.end(), algorithm) == leaves.end()) leaves.push_back(algorithm);
        stack.push_back(digest_bytes(algorithm));
        total += stack.back();
      }
      program->lanes_ = std::max(program->lanes_, lanes_preferred(algorithm));
    }
    if (total > kIdentifierBytesMax) return fail("the values are longer than 1024 bytes");
  }
  if (stack.size() != 1) return fail("exactly one value must remain");
  program->ops_.assign(ops, ops + count);
  program->identifier_bytes_ = stack.back();
  return program;
}

DigestRunner::DigestRunner(std::shared_ptr<const DigestProgram> program)
    : program_(std::move(program)), hash_batches_(kAlgorithmCount) {
  const size_t lanes = program_->lanes();
  for (const Algorithm algorithm : program_->leaves()) {
    leaf_batches_.push_back(std::make_unique<Batch>(algorithm, lanes));
    leaf_values_.emplace_back(lanes * digest_bytes(algorithm));
  }
  stack_.resize(lanes * DigestProgram::kIdentifierBytesMax);
}

void DigestRunner::start(size_t lanes) {
  assert(lanes >= 1 && lanes <= program_->lanes());
  lanes_ = lanes;
  for (auto& batch : leaf_batches_) batch->start(lanes);
}

void DigestRunner::update(const uint8_t* const* rows, size_t bytes) {
  for (auto& batch : leaf_batches_) batch->update(rows, bytes);
}

void DigestRunner::finish(uint8_t* identifiers) {
  const auto& leaves = program_->leaves();
  const size_t width = program_->identifier_bytes();
  if (program_->ops().size() == 1) {  // a single digest is its own identifier
    leaf_batches_[0]->finish(identifiers, width);
    return;
  }
  for (size_t i = 0; i < leaves.size(); ++i) {
    leaf_batches_[i]->finish(leaf_values_[i].data(), digest_bytes(leaves[i]));
  }
  constexpr size_t kRow = DigestProgram::kIdentifierBytesMax;
  size_t top = 0;               // bytes on the stack, the same for every lane
  std::vector<size_t> lengths;  // of the values on it
  for (const uint8_t op : program_->ops()) {
    if (op == kConcat) {
      const size_t length = lengths.back();
      lengths.pop_back();
      lengths.back() += length;  // they lie side by side already
      continue;
    }
    const Algorithm algorithm = static_cast<Algorithm>(op & 0x0f);
    const size_t bytes = digest_bytes(algorithm);
    if ((op & kHash) == 0) {
      const size_t leaf = static_cast<size_t>(std::find(leaves.begin(), leaves.end(), algorithm) - leaves.begin());
      for (size_t lane = 0; lane < lanes_; ++lane) {
        std::memcpy(&stack_[lane * kRow + top], &leaf_values_[leaf][lane * bytes], bytes);
      }
      lengths.push_back(bytes);
      top += bytes;
      continue;
    }
    auto& batch = hash_batches_[op & 0x0f];
    if (!batch) batch = std::make_unique<Batch>(algorithm, program_->lanes());
    const size_t base = top - lengths.back();
    std::vector<const uint8_t*> rows(lanes_);
    for (size_t lane = 0; lane < lanes_; ++lane) rows[lane] = &stack_[lane * kRow + base];
    batch->start(lanes_);
    batch->update(rows.data(), lengths.back());
    batch->finish(&stack_[base], kRow);
    lengths.back() = bytes;
    top = base + bytes;
  }
  for (size_t lane = 0; lane < lanes_; ++lane) {
    std::memcpy(identifiers + lane * width, &stack_[lane * kRow], width);
  }
}

}  // namespace lunsync
