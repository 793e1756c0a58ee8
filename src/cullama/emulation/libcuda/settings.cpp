// The knobs: their names, their defaults, and where their values come from.
//
// A value set in the process wins over the environment variable CULLAMA_EMULATION_<NAME>, which
// wins over the default. The files that read a setting say what it means.
#include <cstdlib>

#include "driver.h"

namespace {

const std::map<std::string, std::string>& defaults() {
  static const auto& table = *new std::map<std::string, std::string>{
      {"devices", "1"},
      {"device_names", "Emulated GPU"},  // several: separated by ';', the last one repeats
      {"compute_capabilities", "90"},    // likewise
      {"memory_bytes", "536870912"},     // likewise
      {"multiprocessors", "4"},          // likewise
      {"fill", "1"},                     // 1: new memory holds 0xFF bytes; 0: zeros
      {"driver_version", "13000"},
      {"streams", "lazy"},   // lazy | random | issued | eager (timeline.cpp)
      {"seed", "0"},         // of random streams
      {"not_ready", "1"},    // how often a query answers NOT_READY before it runs the work
      {"block_order", "0"},  // of threads and blocks: 0 ascending, 1 descending, 2 random
      {"block_seed", "0"},
      {"eager_copies", "0"},  // 1: cp.async copies at its issue; 0: not before its wait
      {"counters", "1"},      // 1: counters that blocks share have to end at zero
      {"faults", ""},
      {"verbose", ""},
  };
  return table;
}

std::string environment_name(const std::string& name) {
  std::string result = "CULLAMA_EMULATION_";
  for (char letter : name) result += static_cast<char>(toupper(letter));
  return result;
}

void take_effect(const std::string& name, const std::string& value) {
  if (name == "faults") driver().faults = parse_faults(value);
  if (name == "seed") driver().random.seed(strtoull(value.c_str(), nullptr, 10));
}

}  // namespace

std::string setting(const std::string& name) {
  auto chosen = driver().settings.find(name);
  if (chosen != driver().settings.end()) return chosen->second;
  const char* value = getenv(environment_name(name).c_str());
  return value ? value : defaults().at(name);
}

long number(const std::string& name) { return atol(setting(name).c_str()); }

std::string setting_of_device(const std::string& name, CUdevice device) {
  std::string rest = setting(name);
  for (; device > 0; device--) {
    size_t end = rest.find(';');
    if (end == std::string::npos) break;
    rest = rest.substr(end + 1);
  }
  return rest.substr(0, rest.find(';'));
}

long number_of_device(const std::string& name, CUdevice device) {
  return atol(setting_of_device(name, device).c_str());
}

bool set_setting(const std::string& name, const std::string& value) {
  if (!defaults().count(name)) return false;
  driver().settings[name] = value;
  take_effect(name, value);
  return true;
}

void forget_settings() {
  driver().settings.clear();
  put_settings_in_effect();
}

void put_settings_in_effect() {
  for (const char* name : {"faults", "seed", "block_order"}) take_effect(name, setting(name));
}
