// Failures: those that tests inject ("cuLaunchKernel:3:700,cuMemAlloc:5+:2,*:17:719"), which of
// them make a context unusable, and the one line that says what went wrong last.
//
// "kernel" stands not for a call, but for the execution of a kernel, however it was launched.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "driver.h"

namespace {

bool parse(const std::string& text, Fault& fault) {
  char call[64], occurrence[24];
  if (sscanf(text.c_str(), " %63[^:]:%23[^:]:%d", call, occurrence, &fault.code) != 3) return false;
  char* end = nullptr;
  fault.call = call;
  fault.occurrence = strtol(occurrence, &end, 10);
  fault.and_later = *end == '+';
  return fault.occurrence > 0;
}

// "*" is any function of the driver: cuBLAS has codes of its own.
bool is_meant(const Fault& fault, const std::string& call) {
  if (fault.call != "*") return fault.call == call;
  return call != "kernel" && call.compare(0, 6, "cublas") != 0;
}

bool strikes(Fault& fault, const std::string& call) {
  if (!is_meant(fault, call)) return false;
  fault.seen++;
  return fault.seen == fault.occurrence || (fault.and_later && fault.seen > fault.occurrence);
}

}  // namespace

std::vector<Fault> parse_faults(const std::string& text) {
  std::vector<Fault> faults;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    Fault fault;
    if (parse(part, fault))
      faults.push_back(fault);
    else
      fprintf(stderr, "libcuda emulation: fault '%s' is not CALL:OCCURRENCE:CODE\n", part.c_str());
  }
  return faults;
}

CUresult injected(const std::string& call) {
  CUresult code = SUCCESS;
  // All faults count the call; the first that matches is reported.
  for (Fault& fault : driver().faults)
    if (strikes(fault, call) && !code) code = fault.code;
  return code ? failed(code, call + ": injected error " + std::to_string(code)) : SUCCESS;
}

// The driver's documentation: "the process must be terminated and relaunched".
bool is_sticky(CUresult code) {
  switch (code) {
    case ECC_UNCORRECTABLE:
    case ILLEGAL_ADDRESS:
    case LAUNCH_TIMEOUT:
    case CONTEXT_IS_DESTROYED:
    case ASSERTION: return true;
    default: return code >= HARDWARE_STACK_ERROR && code <= LAUNCH_FAILED;
  }
}

CUresult failed(CUresult code, const std::string& report) {
  driver().report = report;
  if (!setting("verbose").empty()) fprintf(stderr, "libcuda emulation: %s\n", report.c_str());
  Context* context = current_context();
  if (context && is_sticky(code) && !context->dead) context->dead = code;
  return code;
}
