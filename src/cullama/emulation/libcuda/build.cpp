// See build.h. The command comes from CULLAMA_EMULATION_PYTHON and CULLAMA_EMULATION_BUILD.
//
// The result is recorded as a link in CULLAMA_EMULATION_BUILT, the folder of this version of
// the emulator, if that is set: starting Python takes longer than running most kernels.
#include "build.h"

#include <dlfcn.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

extern char** environ;

namespace {

// By text and kernel. Never unloaded: kernels of an unloaded module may still be in a graph.
using Wanted = std::pair<std::string, std::string>;
std::map<Wanted, BuiltModule>& modules() {
  static auto& all = *new std::map<Wanted, BuiltModule>;
  return all;
}

std::string contents_of(int file) {
  std::string text(lseek(file, 0, SEEK_END), '\0');
  if (pread(file, text.data(), text.size(), 0) < 0) text.clear();
  close(file);
  return text.substr(0, text.find('\n'));
}

struct Ended {
  int status;
  std::string out, err;  // the first line of each
};

Ended run(const char* python, const char* script, const char* file, const char* kernel) {
  int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  char* arguments[] = {const_cast<char*>(python), const_cast<char*>(script),
                       const_cast<char*>(file), const_cast<char*>(kernel), nullptr};
  pid_t process = 0;
  int status = posix_spawn(&process, python, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (status == 0)
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }
  return {status, contents_of(out), contents_of(err)};
}

std::string written_to_file(const std::string& text) {
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder ? folder : "/tmp") + "/cullama-XXXXXX.ptx";
  int file = mkstemps(path.data(), 4);
  if (file < 0) return "";
  bool is_complete = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(file);
  return is_complete ? path : "";
}

// The path of the shared object; empty where that failed.
std::string translated(const std::string& text, const std::string& kernel, std::string& error) {
  const char* python = getenv("CULLAMA_EMULATION_PYTHON");
  const char* script = getenv("CULLAMA_EMULATION_BUILD");
  if (!python || !script) {
    error = "CULLAMA_EMULATION_PYTHON and CULLAMA_EMULATION_BUILD must name the builder of PTX";
    return "";
  }
  std::string path = written_to_file(text);
  Ended ended = run(python, script, path.c_str(), kernel.c_str());
  unlink(path.c_str());
  if (ended.status == 0 && !ended.out.empty()) return ended.out;
  error = ended.err.empty() ? "the build of the PTX failed without output" : ended.err;
  return "";
}

// A hash of the text and its length: enough to tell the texts of one folder apart. ahead.py
// computes the same name.
std::string remembered_path(const std::string& text, const std::string& kernel) {
  const char* folder = getenv("CULLAMA_EMULATION_BUILT");
  if (!folder) return "";
  uint64_t hash = 0;
  for (unsigned char letter : text) hash = hash * 1099511628211u + letter;
  std::string name = std::to_string(hash) + "-" + std::to_string(text.size()) + "-" + kernel;
  return std::string(folder) + "/" + name + ".so";
}

std::string path_of(const std::string& text, const std::string& kernel, std::string& error) {
  std::string remembered = remembered_path(text, kernel);
  char* known = remembered.empty() ? nullptr : realpath(remembered.c_str(), nullptr);
  if (known) return std::unique_ptr<char, decltype(&free)>(known, free).get();
  std::string path = translated(text, kernel, error);
  // If another process was first, the link exists already.
  if (!path.empty() && !remembered.empty()) (void)!symlink(path.c_str(), remembered.c_str());
  return path;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool load(const std::string& path, BuiltModule& module, std::string& error) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  bool is_complete = library && find(library, "emulated_parameter_count", module.parameter_count) &&
                     find(library, "emulated_parameter_size", module.parameter_size) &&
                     find(library, "emulated_launch", module.launch) &&
                     find(library, "emulated_error", module.error) &&
                     find(library, "emulated_schedule", module.schedule) &&
                     find(library, "emulated_check_pointers", module.check_pointers) &&
                     find(library, "emulated_static", module.static_memory);
  if (!is_complete) error = dlerror();
  if (is_complete) {
    find(library, "emulated_eager_copies", module.eager_copies);
    find(library, "emulated_await", module.await);
    find(library, "emulated_counter_check", module.counter_check);
  }
  return is_complete;
}

void schedule(const BuiltModule& module) {
  module.schedule(static_cast<int>(number("block_order")), number("block_seed"));
  if (module.eager_copies) module.eager_copies(static_cast<int>(number("eager_copies")));
  if (module.counter_check) module.counter_check(static_cast<int>(number("counters")));
}

// With unified addressing, kernels reach pinned memory under the host's own pointer.
int is_live_to_kernels(unsigned long long address, size_t size) {
  return is_live(address, size) || is_pinned(reinterpret_cast<const void*>(address), size);
}

}  // namespace

const BuiltModule* built_from(const std::string& text, const std::string& kernel,
                              std::string& error) {
  auto known = modules().find({text, kernel});
  if (known != modules().end()) return &known->second;
  std::string path = path_of(text, kernel, error);
  BuiltModule module;
  if (path.empty() || !load(path, module, error)) return nullptr;
  return &(modules()[{text, kernel}] = module);
}

// One emulator serves the whole process: tests that run kernels without a driver use it, too.
void take_over(const BuiltModule& module) {
  module.check_pointers(is_live_to_kernels);
  schedule(module);
}
