// The part of cuBLAS that the backend calls, computed by the CPU in the emulated driver's streams.
//
// C = alpha op(A) op(B) + beta C, column-major, for the types of the GemmEx support table that
// multiply in float32 (CUBLAS_COMPUTE_32F). It checks what the real library checks, that every
// operand lies in live memory when the work runs, and uses (overwrites) its workspace.
// Memory and streams are the driver's, through its fakecuda_ functions.
// Built with MAJOR_VERSION 12 or 13, the only difference between the two here.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define CUBLAS_API extern "C" __attribute__((visibility("default")))

namespace {

using cublasStatus_t = int;
enum Status : cublasStatus_t {
  SUCCESS = 0,
  NOT_INITIALIZED = 1,
  INVALID_VALUE = 7,
  EXECUTION_FAILED = 13,
  NOT_SUPPORTED = 15,
};
enum Operation : int { KEEP = 0, TRANSPOSE = 1, CONJUGATE = 2 };
enum Type : int { FLOAT32 = 0, FLOAT16 = 2, BFLOAT16 = 14 };
const int COMPUTE_FLOAT32 = 68;
const int FLOAT32_SUMS = 16;  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
const int ILLEGAL_ADDRESS = 700;
const size_t WORKSPACE_ALIGNMENT = 256;

// ---- The emulated driver --------------------------------------------------------------------

struct Driver {
  int (*enter)(const char* name, int* fault);
  int (*enqueue)(void* stream, int (*run)(void*), void* payload, void (*release)(void*));
  int (*is_capturing)(void* stream);
  int (*is_live)(unsigned long long address, size_t size);
  int (*failed)(int code, const char* report);
  bool is_complete;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Driver found_driver() {
  Driver found{};
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  found.is_complete = library && find(library, "fakecuda_enter", found.enter) &&
                      find(library, "fakecuda_enqueue", found.enqueue) &&
                      find(library, "fakecuda_is_capturing", found.is_capturing) &&
                      find(library, "fakecuda_is_live", found.is_live) &&
                      find(library, "fakecuda_failed", found.failed);
  return found;
}

const Driver& driver() {
  static const Driver found = found_driver();
  return found;
}

// ---- Handles --------------------------------------------------------------------------------

struct Handle {
  void* stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_size = 0;
  bool has_own_workspace = false;  // until the next cublasSetStream
  int math_mode = 0;
};

std::mutex handles_lock;
std::set<Handle*>& handles() {
  static auto& all = *new std::set<Handle*>;
  return all;
}

bool is_handle(Handle* handle) {
  std::lock_guard<std::mutex> holding(handles_lock);
  return handles().count(handle) > 0;
}

// The prologue of every call, which fails like this with a lost or missing context.
cublasStatus_t refusal(const char* name) {
  if (!driver().is_complete) return NOT_INITIALIZED;
  int fault = 0;
  int code = driver().enter(name, &fault);
  if (code) return code < ILLEGAL_ADDRESS ? NOT_INITIALIZED : EXECUTION_FAILED;
  return fault;
}

template <class Body>
cublasStatus_t with_handle(const char* name, Handle* handle, Body body) {
  if (cublasStatus_t status = refusal(name)) return status;
  if (!is_handle(handle)) return NOT_INITIALIZED;
  return body(*handle);
}

// ---- Numbers --------------------------------------------------------------------------------

float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float from_bfloat16(uint16_t half) { return from_bits(uint32_t{half} << 16); }

uint16_t to_bfloat16(float value) {
  if (value != value) return 0x7FFF;
  uint32_t bits = bits_of(value);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_float16(uint16_t half) {
  uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7FFFu;
  if (rest >= 0x7C00) return from_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  // Scaling by 2^112 moves the exponent's bias, and makes subnormal numbers normal, exactly.
  return from_bits(sign | bits_of(from_bits(rest << 13) * 0x1p112f));
}

uint16_t to_float16(float value) {
  uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFF;
  auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7F800000) return 0x7FFF;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // 65520 and above round to infinity
  // Subnormal: the addition rounds at 2^-24.
  if (magnitude < 0x38800000)
    return static_cast<uint16_t>(sign | (bits_of(from_bits(magnitude) + 0.5f) - bits_of(0.5f)));
  uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

size_t size_of(int type) { return type == FLOAT32 ? 4 : 2; }

float load(const char* at, int type) {
  uint16_t half;
  float value;
  if (type == FLOAT32) return memcpy(&value, at, sizeof value), value;
  memcpy(&half, at, sizeof half);
  return type == FLOAT16 ? from_float16(half) : from_bfloat16(half);
}

void store(char* at, int type, float value) {
  if (type == FLOAT32) {
    memcpy(at, &value, sizeof value);
    return;
  }
  uint16_t half = type == FLOAT16 ? to_float16(value) : to_bfloat16(value);
  memcpy(at, &half, sizeof half);
}

// ---- The product ----------------------------------------------------------------------------

struct Matrix {
  char* data;
  int type;
  int64_t leading, stride;  // in elements: from column to column, from one of a batch to the next
};

struct Product {
  const char* call;
  bool transpose_a, transpose_b;
  int64_t m, n, k, batch;
  float alpha = 0, beta = 0;
  Matrix a = {}, b = {}, c = {};
  char* workspace = nullptr;
  size_t workspace_size = 0;
  bool has_float32_sums = false;
};

const int64_t ROWS = 16, COLUMNS = 4, DEPTH = 192;  // of a block of C, and of one partial sum

// `lines` rows of op(A), or columns of op(B), from `first`, `depth` steps of k from `begin`: as
// panel[step][line], zero where the matrix has ended.
void pack(float* panel, const Matrix& matrix, const char* data, bool k_is_contiguous, int64_t lines,
          int64_t first, int64_t last, int64_t begin, int64_t depth) {
  int64_t element = size_of(matrix.type);
  int64_t per_step = element * (k_is_contiguous ? 1 : matrix.leading);
  int64_t per_line = element * (k_is_contiguous ? matrix.leading : 1);
  for (int64_t step = 0; step < depth; step++)
    for (int64_t line = 0; line < lines; line++) {
      const char* at = data + (begin + step) * per_step + (first + line) * per_line;
      *panel++ = first + line < last ? load(at, matrix.type) : 0.0f;
    }
}

// Four rows at once, with a vector type: compilers vectorise the loops over columns, which is slow.
using Quad = float __attribute__((vector_size(16), aligned(4)));
const int64_t QUADS = ROWS / 4;

#ifdef __x86_64__
__attribute__((target_clones("arch=haswell", "default")))
#endif
void multiply_panels(float* sums, const float* a, const float* b, int64_t depth) {
  Quad block[COLUMNS][QUADS] = {};
  for (int64_t step = 0; step < depth; step++, a += ROWS, b += COLUMNS)
#pragma GCC unroll 4
    for (int64_t column = 0; column < COLUMNS; column++)
#pragma GCC unroll 4
      for (int64_t quad = 0; quad < QUADS; quad++)
        block[column][quad] += reinterpret_cast<const Quad*>(a)[quad] * b[column];
#pragma GCC unroll 4
  for (int64_t column = 0; column < COLUMNS; column++)
#pragma GCC unroll 4
    for (int64_t quad = 0; quad < QUADS; quad++)
      reinterpret_cast<Quad*>(sums)[column * QUADS + quad] += block[column][quad];
}

int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

struct Panels {
  std::vector<float> a, b;  // all of op(A) and op(B) for one range of k
};

void pack_all(Panels& panels, const Product& product, const char* a, const char* b, int64_t begin,
              int64_t depth) {
  panels.a.resize(blocks(product.m, ROWS) * ROWS * depth);
  panels.b.resize(blocks(product.n, COLUMNS) * COLUMNS * depth);
  for (int64_t row = 0; row < product.m; row += ROWS)
    pack(&panels.a[row * depth], product.a, a, product.transpose_a, ROWS, row, product.m, begin,
         depth);
  for (int64_t column = 0; column < product.n; column += COLUMNS)
    pack(&panels.b[column * depth], product.b, b, !product.transpose_b, COLUMNS, column, product.n,
         begin, depth);
}

float rounded(float value, int type) {
  if (type == FLOAT32) return value;
  return type == FLOAT16 ? from_float16(to_float16(value)) : from_bfloat16(to_bfloat16(value));
}

// The sums of op(A) op(B), as blocks of [COLUMNS][ROWS], block rows innermost. As cuBLAS may, where
// it splits k over blocks, partial sums meet in the type of C, unless the math mode forbids it.
std::vector<float> sums_of(const Product& product, const char* a, const char* b) {
  int64_t high = blocks(product.m, ROWS), wide = blocks(product.n, COLUMNS);
  std::vector<float> sums(high * wide * ROWS * COLUMNS);
  Panels panels;
  for (int64_t begin = 0; begin < product.k; begin += DEPTH) {
    int64_t depth = std::min(DEPTH, product.k - begin);
    pack_all(panels, product, a, b, begin, depth);
    for (int64_t j = 0; j < wide; j++)
      for (int64_t i = 0; i < high; i++)
        multiply_panels(&sums[(j * high + i) * ROWS * COLUMNS], &panels.a[i * ROWS * depth],
                        &panels.b[j * COLUMNS * depth], depth);
    if (!product.has_float32_sums)
      for (float& sum : sums) sum = rounded(sum, product.c.type);
  }
  return sums;
}

void multiply(const Product& product, const char* a, const char* b, char* c) {
  std::vector<float> sums = sums_of(product, a, b);
  int64_t high = blocks(product.m, ROWS);
  for (int64_t j = 0; j < product.n; j++)
    for (int64_t i = 0; i < product.m; i++) {
      int64_t block = (j / COLUMNS * high + i / ROWS) * ROWS * COLUMNS;
      float value = product.alpha * sums[block + j % COLUMNS * ROWS + i % ROWS];
      char* at = c + (j * product.c.leading + i) * size_of(product.c.type);
      // With beta 0, C may be uninitialised: not even NaN gets through.
      if (product.beta != 0) value += product.beta * load(at, product.c.type);
      store(at, product.c.type, value);
    }
}

// ---- Execution in the stream ----------------------------------------------------------------

char* of_batch(const Matrix& matrix, int64_t index) {
  return matrix.data + index * matrix.stride * static_cast<int64_t>(size_of(matrix.type));
}

bool is_live(const Product& product, const Matrix& matrix, const char* name, int64_t rows,
             int64_t columns) {
  if (rows == 0 || columns == 0) return true;
  size_t size = ((columns - 1) * matrix.leading + rows) * size_of(matrix.type);
  for (int64_t index = 0; index < product.batch; index++) {
    auto address = reinterpret_cast<unsigned long long>(of_batch(matrix, index));
    if (driver().is_live(address, size) && address % size_of(matrix.type) == 0) continue;
    std::string report = std::string(product.call) + ": " + name + " of batch " +
                         std::to_string(index) + ", " + std::to_string(size) +
                         " bytes, is not inside one live allocation";
    driver().failed(ILLEGAL_ADDRESS, report.c_str());
    return false;
  }
  return true;
}

bool use_workspace(const Product& product) {
  if (product.workspace_size == 0) return true;
  if (!driver().is_live(reinterpret_cast<unsigned long long>(product.workspace),
                        product.workspace_size)) {
    std::string report = std::string(product.call) + ": the workspace is not live memory";
    driver().failed(ILLEGAL_ADDRESS, report.c_str());
    return false;
  }
  memset(product.workspace, 0xA5, std::min<size_t>(product.workspace_size, 4096));
  return true;
}

int run(void* payload) {
  const Product& product = *static_cast<Product*>(payload);
  int64_t m = product.m, n = product.n, k = product.k;
  bool is_sound =
      use_workspace(product) &&
      is_live(product, product.a, "A", product.transpose_a ? k : m, product.transpose_a ? m : k) &&
      is_live(product, product.b, "B", product.transpose_b ? n : k, product.transpose_b ? k : n) &&
      is_live(product, product.c, "C", m, n);
  if (!is_sound) return ILLEGAL_ADDRESS;
  for (int64_t index = 0; index < product.batch; index++)
    multiply(product, of_batch(product.a, index), of_batch(product.b, index),
             of_batch(product.c, index));
  return 0;
}

void release(void* payload) { delete static_cast<Product*>(payload); }

// ---- Checks at the call ---------------------------------------------------------------------

bool is_supported(const Product& product, int compute) {
  int type = product.a.type;
  bool is_known = type == FLOAT32 || type == FLOAT16 || type == BFLOAT16;
  return compute == COMPUTE_FLOAT32 && is_known && product.b.type == type &&
         (product.c.type == type || product.c.type == FLOAT32);
}

bool is_valid(const Product& product, int operation_a, int operation_b) {
  int64_t rows_a = product.transpose_a ? product.k : product.m;
  int64_t rows_b = product.transpose_b ? product.n : product.k;
  return operation_a >= KEEP && operation_a <= CONJUGATE && operation_b >= KEEP &&
         operation_b <= CONJUGATE && product.m >= 0 && product.n >= 0 && product.k >= 0 &&
         product.batch >= 0 && product.a.leading >= std::max<int64_t>(1, rows_a) &&
         product.b.leading >= std::max<int64_t>(1, rows_b) &&
         product.c.leading >= std::max<int64_t>(1, product.m);
}

cublasStatus_t submit(const Handle& handle, Product product) {
  if (product.m == 0 || product.n == 0 || product.batch == 0) return SUCCESS;
  if (driver().is_capturing(handle.stream) && !handle.has_own_workspace) {
    driver().failed(NOT_SUPPORTED,
                    "cuBLAS was captured without cublasSetWorkspace since the last "
                    "cublasSetStream");
    return NOT_SUPPORTED;
  }
  product.workspace = static_cast<char*>(handle.workspace);
  product.workspace_size = handle.workspace_size;
  product.has_float32_sums = handle.math_mode & FLOAT32_SUMS;
  int code = driver().enqueue(handle.stream, run, new Product(product), release);
  return code ? EXECUTION_FAILED : SUCCESS;
}

Matrix matrix(const void* data, int type, int leading, long long stride) {
  return {static_cast<char*>(const_cast<void*>(data)), type, leading, stride};
}

}  // namespace

CUBLAS_API cublasStatus_t cublasCreate_v2(Handle** handle) {
  if (!handle) return INVALID_VALUE;
  if (cublasStatus_t status = refusal("cublasCreate")) return status;
  std::lock_guard<std::mutex> holding(handles_lock);
  *handle = new Handle;
  handles().insert(*handle);
  return SUCCESS;
}

CUBLAS_API cublasStatus_t cublasDestroy_v2(Handle* handle) {
  return with_handle("cublasDestroy", handle, [&](Handle&) {
    std::lock_guard<std::mutex> holding(handles_lock);
    handles().erase(handle);
    delete handle;
    return SUCCESS;
  });
}

CUBLAS_API cublasStatus_t cublasSetStream_v2(Handle* handle, void* stream) {
  return with_handle("cublasSetStream", handle, [&](Handle& self) {
    int math_mode = self.math_mode;
    self = Handle{};
    self.stream = stream;
    self.math_mode = math_mode;
    return SUCCESS;
  });
}

CUBLAS_API cublasStatus_t cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t size) {
  return with_handle("cublasSetWorkspace", handle, [&](Handle& self) {
    auto address = reinterpret_cast<unsigned long long>(workspace);
    if (address % WORKSPACE_ALIGNMENT) return INVALID_VALUE;
    if (size > 0 && !driver().is_live(address, size)) return INVALID_VALUE;
    self.workspace = workspace;
    self.workspace_size = size;
    self.has_own_workspace = true;
    return SUCCESS;
  });
}

CUBLAS_API cublasStatus_t cublasSetMathMode(Handle* handle, int mode) {
  return with_handle("cublasSetMathMode", handle, [&](Handle& self) {
    self.math_mode = mode;
    return SUCCESS;
  });
}

CUBLAS_API cublasStatus_t cublasGemmStridedBatchedEx(
    Handle* handle, int operation_a, int operation_b, int m, int n, int k, const void* alpha,
    const void* a, int type_a, int leading_a, long long stride_a, const void* b, int type_b,
    int leading_b, long long stride_b, const void* beta, void* c, int type_c, int leading_c,
    long long stride_c, int batch, int compute, int) {
  const char* name = "cublasGemmStridedBatchedEx";
  return with_handle(name, handle, [&](Handle& self) -> cublasStatus_t {
    if (!alpha || !beta) return INVALID_VALUE;
    Product product{name, operation_a != KEEP, operation_b != KEEP, m, n, k, batch};
    product.a = matrix(a, type_a, leading_a, stride_a);
    product.b = matrix(b, type_b, leading_b, stride_b);
    product.c = matrix(c, type_c, leading_c, stride_c);
    if (!is_valid(product, operation_a, operation_b)) return INVALID_VALUE;
    if (!is_supported(product, compute)) return NOT_SUPPORTED;
    memcpy(&product.alpha, alpha, sizeof product.alpha);
    memcpy(&product.beta, beta, sizeof product.beta);
    return submit(self, product);
  });
}

CUBLAS_API cublasStatus_t cublasGemmEx(Handle* handle, int operation_a, int operation_b, int m,
                                       int n, int k, const void* alpha, const void* a, int type_a,
                                       int leading_a, const void* b, int type_b, int leading_b,
                                       const void* beta, void* c, int type_c, int leading_c,
                                       int compute, int) {
  const char* name = "cublasGemmEx";
  return with_handle(name, handle, [&](Handle& self) -> cublasStatus_t {
    if (!alpha || !beta) return INVALID_VALUE;
    Product product{name, operation_a != KEEP, operation_b != KEEP, m, n, k, 1};
    product.a = matrix(a, type_a, leading_a, 0);
    product.b = matrix(b, type_b, leading_b, 0);
    product.c = matrix(c, type_c, leading_c, 0);
    if (!is_valid(product, operation_a, operation_b)) return INVALID_VALUE;
    if (!is_supported(product, compute)) return NOT_SUPPORTED;
    memcpy(&product.alpha, alpha, sizeof product.alpha);
    memcpy(&product.beta, beta, sizeof product.beta);
    return submit(self, product);
  });
}

CUBLAS_API cublasStatus_t cublasGetVersion_v2(Handle*, int* version) {
  if (!version) return INVALID_VALUE;
  *version = MAJOR_VERSION * 10000;
  return SUCCESS;
}

// libraryPropertyType: 0 major, 1 minor, 2 patch.
CUBLAS_API cublasStatus_t cublasGetProperty(int property, int* value) {
  if (!value || property < 0 || property > 2) return INVALID_VALUE;
  *value = property == 0 ? MAJOR_VERSION : 0;
  return SUCCESS;
}

CUBLAS_API const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 8: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11: return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_UNKNOWN";
  }
}

CUBLAS_API const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case 0: return "success";
    case 1: return "the library was not initialized";
    case 3: return "the resource allocation failed";
    case 7: return "an unsupported value or parameter was passed to the function";
    case 8: return "the requested feature is not supported on this device";
    case 13: return "the function failed to launch on the GPU";
    case 14: return "an internal operation failed";
    case 15: return "the functionality requested is not supported";
    default: return "unknown status";
  }
}
