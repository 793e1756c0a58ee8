// See image.h. Error messages are those of ptxas, with the driver's codes.
#include "image.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace {

const size_t PAGE = 4096;
const unsigned MAX_THREADS_PER_BLOCK = 1024;

// The bytes up to the start of the next page, or none where nothing is mapped.
size_t read_to_page_end(const char* from, char* into) {
  size_t size = PAGE - reinterpret_cast<uintptr_t>(from) % PAGE;
  iovec local{into, size}, remote{const_cast<char*>(from), size};
  if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size))
    return size;
  if (errno == EFAULT) return 0;
  memcpy(into, from, size);  // the system call is not allowed here: trust the caller
  return size;
}

// The text up to its NUL; false where memory ends before one comes.
bool read_to_nul(const char* from, std::string& text) {
  char page[PAGE];
  while (size_t size = read_to_page_end(from, page)) {
    size_t length = strnlen(page, size);
    text.append(page, length);
    if (length < size) return true;
    from += size;
  }
  return false;
}

// Lines keep their numbers.
std::string without_comments(std::string text) {
  for (size_t at = 0; (at = text.find('/', at)) != std::string::npos; at++) {
    size_t end = text.compare(at, 2, "//") == 0   ? text.find('\n', at)
                 : text.compare(at, 2, "/*") == 0 ? text.find("*/", at)
                                                  : at;
    if (end == at) continue;
    if (text.compare(at, 2, "/*") == 0 && end != std::string::npos) end += 2;
    end = std::min(end, text.size());
    std::replace_if(text.begin() + at, text.begin() + end, [](char c) { return c != '\n'; }, ' ');
  }
  return text;
}

size_t line_at(const std::string& text, size_t position) {
  return 1 + std::count(text.begin(), text.begin() + std::min(position, text.size()), '\n');
}

// The newest PTX version that a driver loads (PTX ISA, "Release notes"), as 80 for 8.0.
int newest_ptx(long driver_version) {
  static const int of_cuda_12[] = {80, 81, 82, 83, 84, 85, 85, 86, 87, 88};
  long major = driver_version / 1000, minor = driver_version % 1000 / 10;
  if (major == 12) return of_cuda_12[std::min(minor, 9L)];
  return static_cast<int>((major - 4) * 10 + minor);  // CUDA 11.x: 7.x, CUDA 13.x: 9.x
}

std::string dotted(int version) {
  return std::to_string(version / 10) + "." + std::to_string(version % 10);
}

Image rejected(Image image, CUresult code, size_t position, const std::string& error) {
  image.code = code;
  image.line = position == std::string::npos ? 0 : line_at(image.text, position);
  image.error = error;
  return image;
}

Image check_version(Image image) {
  size_t at = image.text.find(".version");
  int version = version_of(image.text);
  if (at == std::string::npos || version == 0)
    return rejected(image, INVALID_PTX, 0, "Missing .version directive at start of file");
  int newest = newest_ptx(number("driver_version"));
  if (version <= newest) return image;
  return rejected(
      image, UNSUPPORTED_PTX_VERSION, at,
      "Unsupported .version " + dotted(version) + "; current version is '" + dotted(newest) + "'");
}

Image check_target(Image image, CUdevice device) {
  int target = 0;
  char feature = ' ';  // sm_90a: for 9.0 alone; sm_100f: for the family 10.x
  size_t at = image.text.find(".target");
  if (at == std::string::npos ||
      sscanf(image.text.c_str() + at, ".target sm_%d%c", &target, &feature) < 1)
    return rejected(image, INVALID_PTX, 0, "Missing .target directive at start of file");
  int capability = static_cast<int>(number_of_device("compute_capabilities", device));
  if (target > capability)
    return rejected(image, INVALID_PTX, std::string::npos,
                    "SM version specified by .target is higher than default SM version assumed");
  bool is_future = feature == 'a'   ? target != capability
                   : feature == 'f' ? target / 10 != capability / 10
                                    : false;
  if (!is_future) return image;
  return rejected(image, INVALID_PTX, std::string::npos,
                  "Program with .target 'sm_" + std::to_string(target) + feature +
                      "' cannot be compiled to future architecture");
}

Image check_syntax(Image image) {
  const std::string& text = image.text;
  if (std::count(text.begin(), text.end(), '{') != std::count(text.begin(), text.end(), '}'))
    return rejected(image, INVALID_PTX, text.size(), "Parsing error near '': syntax error");
  size_t last = text.rfind('}');
  size_t rest = text.find_first_not_of(" \t\r\n", last == std::string::npos ? 0 : last + 1);
  if (rest != std::string::npos && text[rest] != '.')
    return rejected(image, INVALID_PTX, rest,
                    "Parsing error near '" + text.substr(rest, 8) + "': syntax error");
  if (text.find(".entry") == std::string::npos)
    return rejected(image, INVALID_PTX, text.size(), "no .entry: there is nothing to launch in it");
  return image;
}

bool is_binary(const char* image) {
  return memcmp(image,
                "\x7f"
                "ELF",
                4) == 0 ||
         memcmp(image, "\x50\xed\x55\xba", 4) == 0;
}

bool is_name_letter(char letter) { return isalnum(letter) || letter == '_' || letter == '$'; }

// From `.entry name` to the body's brace, where the launch bounds stand; empty: no such kernel.
std::string declaration_of(const std::string& text, const std::string& kernel) {
  const std::string keyword = ".entry";
  for (size_t at = 0; (at = text.find(keyword, at)) != std::string::npos;) {
    at = text.find_first_not_of(" \t\r\n", at + keyword.size());
    if (at == std::string::npos) break;
    size_t end = at;
    while (end < text.size() && is_name_letter(text[end])) end++;
    if (text.compare(at, end - at, kernel) == 0) return text.substr(at, text.find('{', at) - at);
  }
  return "";
}

}  // namespace

Image read_image(const void* bytes, CUdevice device) {
  Image image;
  auto* begin = static_cast<const char*>(bytes);
  if (is_binary(begin))
    return rejected(image, NO_BINARY_FOR_GPU, std::string::npos,
                    "only PTX runs here, not binaries");
  bool has_end = read_to_nul(begin, image.original);
  image.text = without_comments(image.original);
  if (!has_end)
    return rejected(image, INVALID_PTX, image.text.size(), "the image does not end with a NUL");
  image = check_version(std::move(image));
  if (!image.code) image = check_target(std::move(image), device);
  if (!image.code) image = check_syntax(std::move(image));
  return image;
}

bool has_entry(const std::string& text, const std::string& kernel) {
  return !declaration_of(text, kernel).empty();
}

unsigned max_threads_of(const std::string& text, const std::string& kernel) {
  std::string declaration = declaration_of(text, kernel);
  size_t at = std::min(declaration.find(".maxntid"), declaration.find(".reqntid"));
  unsigned x = 1, y = 1, z = 1;
  if (at == std::string::npos) return MAX_THREADS_PER_BLOCK;
  if (sscanf(declaration.c_str() + at, ".%*[a-z] %u , %u , %u", &x, &y, &z) < 1)
    return MAX_THREADS_PER_BLOCK;
  return x * y * z;
}

int version_of(const std::string& text) {
  int major = 0, minor = 0;
  size_t at = text.find(".version");
  if (at == std::string::npos) return 0;
  if (sscanf(text.c_str() + at, ".version %d.%d", &major, &minor) != 2) return 0;
  return major * 10 + minor;
}
