// Translates and compiles PTX with tests/emulation/build.py, and loads the result.
#pragma once

#include <string>

#include "driver.h"

// Returns null where that failed, with the reason in `error`. A text is built once per process.
const BuiltModule* built_from(const std::string& text, std::string& error);
