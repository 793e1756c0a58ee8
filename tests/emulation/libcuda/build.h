// Has PTX translated and compiled by tests/emulation/build.py, and loads the result.
#pragma once

#include <string>

#include "driver.h"

// Null where that failed; `complaint` then says why. The same text is built once in a process.
const BuiltModule* built_from(const std::string& text, std::string& complaint);
