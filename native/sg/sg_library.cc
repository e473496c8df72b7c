#include "sg/sg_library.h"

#include <dlfcn.h>

namespace lunsync {

namespace {

template <typename F>
bool find(void* library, const char* name, F** function) {
  *function = reinterpret_cast<F*>(::dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

bool SgLibrary::load(const std::vector<std::string>& names, std::string* why) {
  void* library = nullptr;
  for (const std::string& name : names) {
    library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    const char* error = ::dlerror();
    if (error != nullptr) *why = error;
  }
  if (library == nullptr) return false;
  const bool whole = find(library, "scsi_pt_open_device", &open_device) &&
                     find(library, "scsi_pt_close_device", &close_device) &&
                     find(library, "construct_scsi_pt_obj_with_fd", &construct) &&
                     find(library, "destruct_scsi_pt_obj", &destruct) &&
                     find(library, "set_scsi_pt_cdb", &set_cdb) && find(library, "set_scsi_pt_sense", &set_sense) &&
                     find(library, "set_scsi_pt_data_in", &set_data_in) &&
                     find(library, "set_scsi_pt_data_out", &set_data_out) &&
                     find(library, "do_scsi_pt", &execute) &&
                     find(library, "get_scsi_pt_result_category", &category) &&
                     find(library, "get_scsi_pt_resid", &residual) &&
                     find(library, "get_scsi_pt_status_response", &status) &&
                     find(library, "get_scsi_pt_sense_len", &sense_bytes) &&
                     find(library, "get_scsi_pt_os_err", &os_error) &&
                     find(library, "get_scsi_pt_transport_err_str", &transport_error);
  if (!whole) *why = "it lacks functions of sg_pt.h";
  return whole;  // it stays loaded for as long as the process lives
}

}  // namespace lunsync
