// AES-128 (FIPS 197) of single blocks, each with a key of its own, on two paths with the same results.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lunsync {

// out[i] = AES(keys[i], in[i]); 16 bytes each; in and out may be the same.
using AesBlocks = void (*)(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);

void aes128_encrypt_portable(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);
void aes128_decrypt_portable(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);

// Only where cpu_features().aes.
void aes128_encrypt_ni(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);
void aes128_decrypt_ni(const uint8_t* keys, const uint8_t* in, size_t count, uint8_t* out);

}  // namespace lunsync
