// sg3_utils' library, libsgutils2, as far as it is used here: SCSI pass-through.
//
// It is found when it is first needed, not when this is built or started: its soname differs by release of Debian, and
// only who uses a pass-through address needs it. Source of the prototypes and values: sg_pt.h of sg3_utils 1.46; the
// interface has had them since 1.29.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct sg_pt_base;  // the library's own

namespace lunsync {

constexpr int kPtQueueAtTail = 0x10;  // SCSI_PT_FLAGS_QUEUE_AT_TAIL
constexpr int kPtDoTimeout = 2;       // SCSI_PT_DO_TIMEOUT, of do_scsi_pt

struct SgUtils {
  const char* (*scsi_pt_version)();
  int (*scsi_pt_open_flags)(const char* device_name, int flags, int verbose);
  int (*scsi_pt_close_device)(int device_fd);
  sg_pt_base* (*construct_scsi_pt_obj)();
  void (*destruct_scsi_pt_obj)(sg_pt_base*);
  void (*set_scsi_pt_cdb)(sg_pt_base*, const uint8_t* cdb, int cdb_len);
  void (*set_scsi_pt_sense)(sg_pt_base*, uint8_t* sense, int max_sense_len);
  void (*set_scsi_pt_data_in)(sg_pt_base*, uint8_t* data, int length);
  void (*set_scsi_pt_data_out)(sg_pt_base*, const uint8_t* data, int length);
  void (*set_scsi_pt_flags)(sg_pt_base*, int flags);
  int (*do_scsi_pt)(sg_pt_base*, int fd, int timeout_secs, int verbose);
  int (*get_scsi_pt_result_category)(const sg_pt_base*);
  int (*get_scsi_pt_resid)(const sg_pt_base*);
  int (*get_scsi_pt_status_response)(const sg_pt_base*);
  int (*get_scsi_pt_sense_len)(const sg_pt_base*);
  int (*get_scsi_pt_os_err)(const sg_pt_base*);
  int (*get_scsi_pt_transport_err)(const sg_pt_base*);
  char* (*get_scsi_pt_transport_err_str)(const sg_pt_base*, int max_b_len, char* b);
};

// The first of `names` that the dynamic linker finds and that has all of the above; kept as long as the process lives.
// Null, and why in `*error`, if there is none.
const SgUtils* load_sgutils(const std::vector<std::string>& names, std::string* error);

}  // namespace lunsync
