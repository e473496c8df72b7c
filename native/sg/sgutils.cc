#include "sg/sgutils.h"

#include <dlfcn.h>

#include <mutex>

namespace lunsync {

namespace {

template <typename Function>
bool bind(void* library, const char* name, Function* function) {
  *reinterpret_cast<void**>(function) = ::dlsym(library, name);
  return *function != nullptr;
}

#define LUNSYNC_BIND(name) bind(library, #name, &to->name)

bool bind_all(void* library, SgUtils* to) {
  return LUNSYNC_BIND(scsi_pt_version) && LUNSYNC_BIND(scsi_pt_open_flags) && LUNSYNC_BIND(scsi_pt_close_device) &&
         LUNSYNC_BIND(construct_scsi_pt_obj) && LUNSYNC_BIND(destruct_scsi_pt_obj) && LUNSYNC_BIND(set_scsi_pt_cdb) &&
         LUNSYNC_BIND(set_scsi_pt_sense) && LUNSYNC_BIND(set_scsi_pt_data_in) && LUNSYNC_BIND(set_scsi_pt_data_out) &&
         LUNSYNC_BIND(set_scsi_pt_flags) && LUNSYNC_BIND(do_scsi_pt) && LUNSYNC_BIND(get_scsi_pt_result_category) &&
         LUNSYNC_BIND(get_scsi_pt_resid) && LUNSYNC_BIND(get_scsi_pt_status_response) &&
         LUNSYNC_BIND(get_scsi_pt_sense_len) && LUNSYNC_BIND(get_scsi_pt_os_err) &&
         LUNSYNC_BIND(get_scsi_pt_transport_err) && LUNSYNC_BIND(get_scsi_pt_transport_err_str);
}

#undef LUNSYNC_BIND

}  // namespace

const SgUtils* load_sgutils(const std::vector<std::string>& names, std::string* error) {
  // Environments of several threads share it.
  static std::mutex mutex;
  static const SgUtils* loaded = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (loaded != nullptr) return loaded;
  for (const std::string& name : names) {
    void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* why = ::dlerror();
      if (error->empty() && why != nullptr) *error = why;
      continue;
    }
    SgUtils found;
    if (bind_all(library, &found)) return loaded = new SgUtils(found);
    *error = name + " lacks functions that are needed";
    ::dlclose(library);
  }
  return nullptr;
}

}  // namespace lunsync
