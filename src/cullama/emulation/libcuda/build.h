// Translates and compiles kernels of PTX with build.py, and loads the result.
#pragma once

#include <string>

#include "driver.h"

// Returns null where that failed, with the reason in `error`. A kernel is built once per process.
const BuiltModule* built_from(const std::string& text, const std::string& kernel,
                              std::string& error);
