// The driver of this process, or the one that temporarily replaces it.
#include "driver.h"

namespace {

struct SetAside {
  Driver* driver;
  Context* current;  // of the thread that set it aside
};

// Neither is ever destroyed: threads may still call while the process exits.
Driver*& present() {
  static Driver* one = new Driver;
  return one;
}

std::vector<SetAside>& set_aside() {
  static auto& all = *new std::vector<SetAside>;
  return all;
}

}  // namespace

Driver& driver() {
  Driver& self = *present();
  if (!self.has_settings) {
    self.has_settings = true;  // first, as the next line calls driver()
    put_settings_in_effect();
  }
  return self;
}

void set_driver_aside() {
  set_aside().push_back({&driver(), current_context()});
  set_current_context(nullptr);
  present() = new Driver;
  put_settings_in_effect();
}

bool take_driver_back() {
  if (set_aside().empty()) return false;
  forget_contexts();
  delete present();
  auto [driver, current] = set_aside().back();
  set_aside().pop_back();
  present() = driver;
  set_current_context(current);
  return true;
}
