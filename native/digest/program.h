// A digest specification, compiled: which digests are taken of the data, and how their values are combined.
//
// The program is postfix over a stack of byte strings: a leaf pushes the digest of the extent's data, `concat`
// joins the top two, `hash` replaces the top by its digest. `crc32c+md5` is leaf, leaf, concat; `crc32c(md5)` is
// leaf md5, hash crc32c. What remains is the identifier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "digest/digest.h"

namespace lunsync {

// Opcodes as JavaScript passes them, one byte each: 00h–0Fh leaf of that algorithm, 10h concat, 20h–2Fh hash.
class DigestProgram {
 public:
  static constexpr size_t kOpsMax = 64;
  static constexpr size_t kIdentifierBytesMax = 1024;

  // Null, with the reason in *error, if the opcodes are no valid program.
  static std::unique_ptr<DigestProgram> compile(const uint8_t* ops, size_t count, const char** error);

  size_t identifier_bytes() const { return identifier_bytes_; }
  const std::vector<Algorithm>& leaves() const { return leaves_; }  // each algorithm once
  const std::vector<uint8_t>& ops() const { return ops_; }
  // The most messages that some kernel of it wants at once.
  size_t lanes() const { return lanes_; }

 private:
  std::vector<uint8_t> ops_;
  std::vector<Algorithm> leaves_;
  size_t identifier_bytes_ = 0;
  size_t lanes_ = 1;
};

// Runs a program over groups of equal-length extents; owned by one thread.
class DigestRunner {
 public:
  explicit DigestRunner(std::shared_ptr<const DigestProgram> program);

  // As Batch: start, update with slices, finish. lanes <= program.lanes().
  void start(size_t lanes);
  void update(const uint8_t* const* rows, size_t bytes);
  // Writes `lanes` identifiers, identifier_bytes() apart.
  void finish(uint8_t* identifiers);

 private:
  std::shared_ptr<const DigestProgram> program_;
  std::vector<std::unique_ptr<Batch>> leaf_batches_;  // as program_->leaves()
  std::vector<std::unique_ptr<Batch>> hash_batches_;  // by algorithm, made when needed
  std::vector<std::vector<uint8_t>> leaf_values_;
  std::vector<uint8_t> stack_;  // one row of kIdentifierBytesMax for each lane
  size_t lanes_ = 0;
};

}  // namespace lunsync
