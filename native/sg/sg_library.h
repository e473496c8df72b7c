// SCSI pass-through by sg3_utils' library, which is looked for when it is needed: its soname differs by release, and
// who never opens an sg device need not have it.
//
// Source of the prototypes: sg_pt.h of sg3_utils 1.46; they have been the same since 1.42.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct sg_pt_base;

namespace lunsync {

// What get_scsi_pt_result_category() says.
enum class SgCategory : int { good = 0, status = 1, sense = 2, transport = 3, os = 4 };

struct SgLibrary {
  int (*open_device)(const char* path, bool read_only, int verbose) = nullptr;
  int (*close_device)(int fd) = nullptr;
  sg_pt_base* (*construct)(int fd, int verbose) = nullptr;
  void (*destruct)(sg_pt_base*) = nullptr;
  void (*set_cdb)(sg_pt_base*, const uint8_t* cdb, int bytes) = nullptr;
  void (*set_sense)(sg_pt_base*, uint8_t* sense, int bytes) = nullptr;
  void (*set_data_in)(sg_pt_base*, uint8_t* data, int bytes) = nullptr;
  void (*set_data_out)(sg_pt_base*, const uint8_t* data, int bytes) = nullptr;
  int (*execute)(sg_pt_base*, int fd, int timeout_seconds, int verbose) = nullptr;
  int (*category)(const sg_pt_base*) = nullptr;
  int (*residual)(const sg_pt_base*) = nullptr;
  int (*status)(const sg_pt_base*) = nullptr;
  int (*sense_bytes)(const sg_pt_base*) = nullptr;
  int (*os_error)(const sg_pt_base*) = nullptr;
  char* (*transport_error)(const sg_pt_base*, int bytes, char* text) = nullptr;

  // Loads the first of the names that is there. False, and why, if none is or one lacks a function.
  bool load(const std::vector<std::string>& names, std::string* why);
};

}  // namespace lunsync
