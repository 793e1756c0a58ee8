// The binary interface of NVIDIA's driver library, as far as it is emulated.
//
// Written out instead of included, so that no CUDA toolkit is needed to build this. Handles are
// pointers to our own structures; result codes and enumerators have the driver's numbers, under the
// driver's names without their prefix.
#pragma once

#include <cstddef>
#include <cstdint>

struct Context;
struct Event;
struct Graph;
struct GraphExecution;
struct GraphNode;
struct Kernel;
struct Module;
struct Stream;

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;

#define DRIVER_API extern "C" __attribute__((visibility("default")))

enum Code : CUresult {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  ECC_UNCORRECTABLE = 214,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_TIMEOUT = 702,
  CONTEXT_IS_DESTROYED = 709,
  ASSERTION = 710,
  HARDWARE_STACK_ERROR = 714,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  STREAM_CAPTURE_UNSUPPORTED = 900,
  STREAM_CAPTURE_INVALIDATED = 901,
  STREAM_CAPTURE_MERGE = 902,
  STREAM_CAPTURE_UNMATCHED = 903,
  STREAM_CAPTURE_UNJOINED = 904,
  STREAM_CAPTURE_ISOLATION = 905,
  STREAM_CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  STREAM_CAPTURE_WRONG_THREAD = 908,
};

enum CaptureMode : int { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum CaptureStatus : int { CAPTURE_NONE = 0, CAPTURE_ACTIVE = 1, CAPTURE_INVALIDATED = 2 };
enum StreamFlags : unsigned { STREAM_DEFAULT = 0, STREAM_NON_BLOCKING = 1 };
enum EventFlags : unsigned { EVENT_DISABLE_TIMING = 2, EVENT_FLAGS_KNOWN = 7 };
enum JitOption : int {
  JIT_INFO_LOG_BUFFER = 3,
  JIT_INFO_LOG_BUFFER_SIZE_BYTES = 4,
  JIT_ERROR_LOG_BUFFER = 5,
  JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
};
enum FunctionAttribute : int {
  FUNCTION_MAX_THREADS_PER_BLOCK = 0,
  FUNCTION_SHARED_SIZE_BYTES = 1,
  FUNCTION_CONST_SIZE_BYTES = 2,
  FUNCTION_LOCAL_SIZE_BYTES = 3,
  FUNCTION_NUM_REGS = 4,
  FUNCTION_PTX_VERSION = 5,
  FUNCTION_BINARY_VERSION = 6,
  FUNCTION_CACHE_MODE_CA = 7,
  FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  FUNCTION_PREFERRED_SHARED_MEMORY_CARVEOUT = 9,
};

// The two handles of a stream that are numbers, not pointers.
inline Stream* const LEGACY_STREAM = reinterpret_cast<Stream*>(1);
inline Stream* const PER_THREAD_STREAM = reinterpret_cast<Stream*>(2);
