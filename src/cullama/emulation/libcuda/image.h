// What the driver checks in a PTX text before it compiles it, and its error messages.
#pragma once

#include <string>

#include "api.h"

// A text, or its error. Lines count from 1; 0: no particular line.
struct Image {
  std::string original;
  std::string text;  // comments blanked out
  std::string error;
  size_t line = 0;
  CUresult code = SUCCESS;
};

Image read_image(const void* image, CUdevice device);
bool has_entry(const std::string& text, const std::string& kernel);
unsigned max_threads_of(const std::string& text, const std::string& kernel);
int version_of(const std::string& text);  // 80 for .version 8.0
