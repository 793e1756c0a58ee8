// What the driver reads in a PTX text before it compiles anything, and what it says about it.
#pragma once

#include <string>

#include "api.h"

// A text, or what is wrong with it. The line is counted from 1; 0: no line in particular.
struct Image {
  std::string original;
  std::string text;  // comments blanked out
  std::string complaint;
  size_t line = 0;
  CUresult code = SUCCESS;
};

Image read_image(const void* image, CUdevice device);
bool has_entry(const std::string& text, const std::string& kernel);
unsigned max_threads_of(const std::string& text, const std::string& kernel);
int version_of(const std::string& text);  // 80 for .version 8.0
