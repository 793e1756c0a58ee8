// machine.h - implements PTX instructions as C++ functions that translated kernels call.
//
// Number formats and their rounding, memory accesses with their checks, warp and block operations
// by their PTX names. How threads are scheduled is in scheduler.h. It is compiled with every
// module, so it includes very little. Bits change their type with __builtin_bit_cast; halves are
// passed as the uint16_t that a .b16 register holds.
#pragma once
#include <string.h>

#include "scheduler.h"

namespace emulated {

#define ALWAYS inline __attribute__((always_inline))
#define NO_RACE_CHECK \
  __attribute__((no_sanitize("thread")))  // what hardware does is not a race of the kernel
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

// --- numbers ------------------------------------------------------------------------------------

template <class To, class From>
ALWAYS To bits(From value) {
  return __builtin_bit_cast(To, value);
}

enum Rounding { NEAREST, ZERO, DOWN, UP };

constexpr float infinity = __builtin_inff();

ALWAYS bool is_nan(double x) { return x != x; }

// .ftz: numbers below the normal ones become zero of the same sign.
ALWAYS float flushed(float x) {
  return __builtin_fabsf(x) < 1.17549435e-38f ? __builtin_copysignf(0.f, x) : x;
}

// .sat: NaN becomes 0 as well.
ALWAYS float saturated(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
ALWAYS double saturated(double x) { return x > 0. ? (x < 1. ? x : 1.) : 0.; }

// A sum of which the last bit is 1 where it is not exact: rounding it again, to at most half the
// digits, is rounding the exact sum.
inline double sum_to_odd(double a, double b) {
  const double sum = a + b, part = sum - a, error = (a - (sum - part)) + (b - part);
  const uint64_t pattern = bits<uint64_t>(sum);
  if (error == 0 || is_nan(error) || (pattern & 1)) return sum;
  return bits<double>((error > 0) == (sum > 0) ? pattern + 1 : pattern - 1);
}

// Rounds to a multiple of 2^exponent.
inline double rounded_at(double x, int exponent, Rounding rounding) {
  const double scaled = __builtin_ldexp(x, -exponent);
  switch (rounding) {
    case ZERO: return __builtin_ldexp(__builtin_trunc(scaled), exponent);
    case DOWN: return __builtin_ldexp(__builtin_floor(scaled), exponent);
    case UP: return __builtin_ldexp(__builtin_ceil(scaled), exponent);
    default: return __builtin_ldexp(__builtin_rint(scaled), exponent);
  }
}

// The nearest number with so many digits (the hidden one not counted) and exponent bits.
template <int DIGITS, int EXPONENTS>
inline double narrowed(double x, Rounding rounding) {
  if (is_nan(x) || x == 0 || __builtin_isinf(x)) return x;
  constexpr int bias = (1 << (EXPONENTS - 1)) - 1;
  const double largest = __builtin_ldexp(2 - __builtin_ldexp(1., -DIGITS), bias);
  int exponent = __builtin_ilogb(x);
  if (exponent < 1 - bias) exponent = 1 - bias;
  const double y = rounded_at(x, exponent - DIGITS, rounding);
  if (__builtin_fabs(y) <= largest) return y;
  const bool stays = rounding == ZERO || (rounding == DOWN && x > 0) || (rounding == UP && x < 0);
  return __builtin_copysign(stays ? largest : __builtin_inf(), x);
}

inline float to_float(double x, Rounding rounding) {
  return rounding == NEAREST ? float(x) : float(narrowed<23, 8>(x, rounding));
}

// --- halves -------------------------------------------------------------------------------------

ALWAYS float from_bf16(uint16_t x) { return bits<float>(uint32_t(x) << 16); }

inline uint16_t to_bf16(float x) {
  const uint32_t pattern = bits<uint32_t>(x);
  if (is_nan(x)) return 0x7fff;
  return uint16_t((pattern + 0x7fff + (pattern >> 16 & 1)) >> 16);
}

inline uint16_t to_bf16(double x, Rounding rounding) {
  if (is_nan(x)) return 0x7fff;
  return uint16_t(bits<uint32_t>(float(narrowed<7, 8>(x, rounding))) >> 16);
}

#if defined(__F16C__)
typedef short ShortVector __attribute__((vector_size(16)));
typedef float FloatVector __attribute__((vector_size(16)));

ALWAYS float from_f16(uint16_t x) { return __builtin_ia32_vcvtph2ps(ShortVector{short(x)})[0]; }

ALWAYS uint16_t to_f16(float x) {
  if (UNLIKELY(is_nan(x))) return 0x7fff;
  return uint16_t(__builtin_ia32_vcvtps2ph(FloatVector{x}, 0)[0]);
}
#else
inline float from_f16(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000) << 16, rest = x & 0x7fff;
  if (rest >= 0x7c00) return bits<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Multiplied up by 2^112, the difference of the biases: exact, subnormals included.
  return bits<float>(sign | bits<uint32_t>(bits<float>(rest << 13) * 0x1p112f));
}

inline uint16_t to_f16(double x, Rounding rounding);
inline uint16_t to_f16(float x) { return to_f16(double(x), NEAREST); }
#endif

inline uint16_t to_f16(double x, Rounding rounding) {
  if (is_nan(x)) return 0x7fff;
  const double y = narrowed<10, 5>(x, rounding);
  const uint16_t sign = __builtin_signbit(y) ? 0x8000 : 0;
  const double size = __builtin_fabs(y);
  if (size > 65504) return sign | 0x7c00;
  if (size < 0x1p-14) return sign | uint16_t(size * 0x1p24);
  const int exponent = __builtin_ilogb(size);
  return sign | uint16_t((exponent + 14) << 10) + uint16_t(__builtin_ldexp(size, 10 - exponent));
}

// The two formats, under one interface for everything that is done with halves.
struct F16 {
  static float from(uint16_t x) { return from_f16(x); }
  static uint16_t to(float x) { return to_f16(x); }
  static uint16_t to(double x, Rounding rounding) { return to_f16(x, rounding); }
};
struct BF16 {
  static float from(uint16_t x) { return from_bf16(x); }
  static uint16_t to(float x) { return to_bf16(x); }
  static uint16_t to(double x, Rounding rounding) { return to_bf16(x, rounding); }
};

template <class Half>
inline uint16_t half_add(uint16_t a, uint16_t b) {
  return Half::to(sum_to_odd(Half::from(a), Half::from(b)), NEAREST);
}
template <class Half>
inline uint16_t half_sub(uint16_t a, uint16_t b) {
  return Half::to(sum_to_odd(Half::from(a), -double(Half::from(b))), NEAREST);
}
template <class Half>
inline uint16_t half_mul(uint16_t a, uint16_t b) {
  return Half::to(double(Half::from(a)) * Half::from(b), NEAREST);
}
template <class Half>
inline uint16_t half_fma(uint16_t a, uint16_t b, uint16_t c) {
  return Half::to(sum_to_odd(double(Half::from(a)) * Half::from(b), Half::from(c)), NEAREST);
}
template <class Half>
inline uint16_t half_neg(uint16_t a) {
  return a ^ 0x8000;
}
template <class Half>
inline uint16_t half_abs(uint16_t a) {
  return a & 0x7fff;
}
template <class Half>
inline uint16_t half_saturated(uint16_t a) {
  return Half::to(saturated(Half::from(a)));
}
template <class Half>
inline uint16_t half_relu(uint16_t a) {
  return is_nan(Half::from(a)) ? 0x7fff : Half::from(a) > 0 ? a : 0;
}

// Both halves of a register.
template <class Operation, class... Halves>
ALWAYS uint32_t pairwise(Operation operation, Halves... x) {
  return operation(uint16_t(x)...) | uint32_t(operation(uint16_t(x >> 16)...)) << 16;
}

// --- smallest and largest -----------------------------------------------------------------------

// The operand that is not NaN wins; -0 is less than +0.
template <class Float>
ALWAYS Float minimum(Float a, Float b) {
  if (UNLIKELY(a == b)) return __builtin_signbit(a) ? a : b;
  return a < b || is_nan(b) ? a : b;
}
template <class Float>
ALWAYS Float maximum(Float a, Float b) {
  if (UNLIKELY(a == b)) return __builtin_signbit(a) ? b : a;
  return a > b || is_nan(b) ? a : b;
}
// .NaN: NaN wins.
template <class Float>
ALWAYS Float minimum_nan(Float a, Float b) {
  return is_nan(a) || is_nan(b) ? Float(__builtin_nanf("")) : minimum(a, b);
}
template <class Float>
ALWAYS Float maximum_nan(Float a, Float b) {
  return is_nan(a) || is_nan(b) ? Float(__builtin_nanf("")) : maximum(a, b);
}
template <class Int>
ALWAYS Int smaller(Int a, Int b) {
  return a < b ? a : b;
}
template <class Int>
ALWAYS Int larger(Int a, Int b) {
  return a > b ? a : b;
}

// --- conversions --------------------------------------------------------------------------------

template <class Int>
constexpr bool is_signed = Int(-1) < Int(0);
template <class Int>
constexpr Int highest = is_signed<Int> ? Int((uint64_t(1) << (8 * sizeof(Int) - 1)) - 1) : Int(-1);
template <class Int>
constexpr Int lowest = is_signed<Int> ? Int(-highest<Int> - 1) : Int(0);

ALWAYS float rounded(float x, Rounding rounding) {
  return rounding == NEAREST ? __builtin_rintf(x)
         : rounding == ZERO  ? __builtin_truncf(x)
         : rounding == DOWN  ? __builtin_floorf(x)
                             : __builtin_ceilf(x);
}
ALWAYS double rounded(double x, Rounding rounding) {
  return rounding == NEAREST ? __builtin_rint(x)
         : rounding == ZERO  ? __builtin_trunc(x)
         : rounding == DOWN  ? __builtin_floor(x)
                             : __builtin_ceil(x);
}

// Out of range saturates. NaN is 0, but 2^(bits - 1) where a side has 64 bits.
template <class Int, class Float>
ALWAYS Int to_integer(Float x, Rounding rounding) {
  const Float y = rounded(x, rounding);
  const Float end = Float(uint64_t(1) << (8 * sizeof(Int) - 1)) * (is_signed<Int> ? 1 : 2);
  if (UNLIKELY(!(y < end)))
    return y >= end                             ? highest<Int>
           : sizeof(Int) == 8 || sizeof(x) == 8 ? Int(uint64_t(1) << (8 * sizeof(Int) - 1))
                                                : Int(0);
  return y <= Float(lowest<Int>) ? lowest<Int> : Int(y);
}

// .sat between integers. Every narrower one fits into 64 bits with its sign.
template <class To, class From>
ALWAYS To clamped(From x) {
  if (is_signed<From> && int64_t(x) < 0)
    return int64_t(x) < int64_t(lowest<To>) ? lowest<To> : To(x);
  return uint64_t(x) > uint64_t(highest<To>) ? highest<To> : To(x);
}

ALWAYS float neighbour(float x, float toward) { return __builtin_nextafterf(x, toward); }
ALWAYS double neighbour(double x, float toward) { return __builtin_nextafter(x, double(toward)); }

// An integer as a float, rounded once: 64 bits do not fit into a double.
template <class Float, class Int>
inline Float from_integer(Int x, Rounding rounding) {
  const Float near = Float(x);
  if (rounding == NEAREST) return near;
  const __int128 difference = __int128(x) - __int128(near);
  const bool goes_down = rounding == DOWN || (rounding == ZERO && x > 0);
  if (difference < 0 && goes_down) return neighbour(near, -infinity);
  if (difference > 0 && (rounding == UP || (rounding == ZERO && x < 0)))
    return neighbour(near, infinity);
  return near;
}

// --- float arithmetic with a direction ----------------------------------------------------------

// The error of `near` decides whether the neighbour is the right one.
inline double stepped(double near, double error, Rounding rounding) {
  const bool is_above = error < 0, is_below = error > 0;
  if (is_above && (rounding == DOWN || (rounding == ZERO && near > 0)))
    return neighbour(near, -infinity);
  if (is_below && (rounding == UP || (rounding == ZERO && near < 0)))
    return neighbour(near, infinity);
  return near;
}

inline double add_rounded(double a, double b, Rounding rounding) {
  const double sum = a + b, part = sum - a;
  return stepped(sum, (a - (sum - part)) + (b - part), rounding);
}
inline double mul_rounded(double a, double b, Rounding rounding) {
  const double product = a * b;
  return stepped(product, __builtin_fma(a, b, -product), rounding);
}
inline float add_rounded(float a, float b, Rounding rounding) {
  return to_float(sum_to_odd(a, b), rounding);
}
inline float mul_rounded(float a, float b, Rounding rounding) {
  return to_float(double(a) * b, rounding);
}
inline float fma_rounded(float a, float b, float c, Rounding rounding) {
  return to_float(sum_to_odd(double(a) * b, c), rounding);
}
// A quotient's or root's double that is off by half a unit still lies on the right side of a float.
inline float div_rounded(float a, float b, Rounding rounding) {
  const double near = double(a) / b;
  return to_float(
      stepped(near, -__builtin_fma(near, double(b), -double(a)) * (b < 0 ? -1 : 1), ZERO),
      rounding);
}
inline float sqrt_rounded(float x, Rounding rounding) {
  const double near = __builtin_sqrt(double(x));
  return to_float(stepped(near, -__builtin_fma(near, near, -double(x)), ZERO), rounding);
}

// --- integers -----------------------------------------------------------------------------------

// What division by zero gives is unspecified; this is what the hardware gives.
template <class Int>
ALWAYS Int quotient(Int a, Int b) {
  if (UNLIKELY(b == 0)) return Int(-1);
  if (UNLIKELY(is_signed<Int> && b == Int(-1))) return Int(0 - a);
  return Int(a / b);
}
template <class Int>
ALWAYS Int remainder_of(Int a, Int b) {
  if (UNLIKELY(b == 0)) return a;
  if (UNLIKELY(is_signed<Int> && b == Int(-1))) return Int(0);
  return Int(a % b);
}

// Shifts by the width or more empty the register.
template <class Int>
ALWAYS Int shifted_left(Int x, uint32_t count) {
  return count < 8 * sizeof(Int) ? Int(x << count) : Int(0);
}
template <class Int>
ALWAYS Int shifted_right(Int x, uint32_t count) {
  return count < 8 * sizeof(Int) ? Int(x >> count) : Int(is_signed<Int> && x < 0 ? -1 : 0);
}
ALWAYS uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t(((uint64_t(high) << 32 | low) << count) >> 32);
}
ALWAYS uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t((uint64_t(high) << 32 | low) >> count);
}

template <class Int>
ALWAYS Int absolute(Int x) {
  return x < 0 ? Int(0 - x) : x;
}
template <class Int>
ALWAYS Int distance(Int a, Int b) {
  return a < b ? Int(b - a) : Int(a - b);
}

ALWAYS uint32_t high_product(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
ALWAYS int32_t high_product(int32_t a, int32_t b) { return int32_t(int64_t(a) * b >> 32); }
ALWAYS uint16_t high_product(uint16_t a, uint16_t b) { return uint16_t(uint32_t(a) * b >> 16); }
ALWAYS int16_t high_product(int16_t a, int16_t b) { return int16_t(int32_t(a) * b >> 16); }
ALWAYS uint64_t high_product(uint64_t a, uint64_t b) {
  return uint64_t((unsigned __int128)a * b >> 64);
}
ALWAYS int64_t high_product(int64_t a, int64_t b) { return int64_t((__int128)a * b >> 64); }

ALWAYS int32_t saturated_sum(int32_t a, int32_t b) { return clamped<int32_t>(int64_t(a) + b); }
ALWAYS int32_t saturated_difference(int32_t a, int32_t b) {
  return clamped<int32_t>(int64_t(a) - b);
}

// a ± b (+ carry), and the carry (or borrow) out.
template <class Int>
ALWAYS Int add_carry(Int a, Int b, bool in, bool& out) {
  const unsigned __int128 sum = (unsigned __int128)a + b + in;
  out = sum >> (8 * sizeof(Int)) & 1;
  return Int(sum);
}
template <class Int>
ALWAYS Int sub_borrow(Int a, Int b, bool in, bool& out) {
  const unsigned __int128 difference = (unsigned __int128)a - b - in;
  out = difference >> (8 * sizeof(Int)) & 1;
  return Int(difference);
}

template <class Int>
ALWAYS uint32_t leading_zeros(Int x) {
  return x ? uint32_t(sizeof(Int) == 8 ? __builtin_clzll(x) : __builtin_clz(uint32_t(x)))
           : uint32_t(8 * sizeof(Int));
}
template <class Int>
ALWAYS uint32_t ones(Int x) {
  return uint32_t(__builtin_popcountll(x));
}
inline uint32_t reversed(uint32_t x) {
  x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
  x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
  x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
  return __builtin_bswap32(x);
}
inline uint64_t reversed(uint64_t x) {
  return uint64_t(reversed(uint32_t(x))) << 32 | reversed(uint32_t(x >> 32));
}

// The position of the highest bit that differs from the sign; or its distance from the top.
template <class Int>
inline uint32_t highest_bit(Int x, bool as_shift) {
  const uint64_t y = is_signed<Int> && x < 0 ? uint64_t(~x) : uint64_t(x);
  if (y == 0) return 0xffffffff;
  const uint32_t place = 63 - uint32_t(__builtin_clzll(y));
  return as_shift ? uint32_t(8 * sizeof(Int)) - 1 - place : place;
}

template <class Int>
inline Int field(Int x, uint32_t first, uint32_t length) {
  first &= 255, length &= 255;
  constexpr uint32_t width = 8 * sizeof(Int);
  if (length == 0) return 0;
  const Int low = shifted_right(x, first);
  if (first + length >= width) return low;  // the sign, or zeros, are there already
  if (!is_signed<Int>) return Int(low & ((Int(1) << length) - 1));
  return Int(Int(uint64_t(low) << (width - length)) >> (width - length));
}
template <class Int>
inline Int with_field(Int value, Int into, uint32_t first, uint32_t length) {
  first &= 255, length &= 255;
  constexpr uint32_t width = 8 * sizeof(Int);
  if (first >= width || length == 0) return into;
  const Int mask = Int((length >= width ? Int(-1) : Int((Int(1) << length) - 1)) << first);
  return Int((into & ~mask) | (Int(value << first) & mask));
}

// lop3: bit i of the table is what the three input bits that spell i give.
ALWAYS uint32_t logic(uint32_t a, uint32_t b, uint32_t c, unsigned table) {
  uint32_t result = 0;
  if (table & 0x01) result |= ~a & ~b & ~c;
  if (table & 0x02) result |= ~a & ~b & c;
  if (table & 0x04) result |= ~a & b & ~c;
  if (table & 0x08) result |= ~a & b & c;
  if (table & 0x10) result |= a & ~b & ~c;
  if (table & 0x20) result |= a & ~b & c;
  if (table & 0x40) result |= a & b & ~c;
  if (table & 0x80) result |= a & b & c;
  return result;
}

inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t choice = selector >> (4 * i) & 15;
    uint32_t byte = uint32_t(bytes >> (choice & 7) * 8) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// prmt's modes are selectors that the two low bits of c choose.
inline uint32_t permuted(const uint16_t selectors[4], uint32_t a, uint32_t b, uint32_t c) {
  return permuted(a, b, selectors[c & 3]);
}
constexpr uint16_t prmt_f4e[4] = {0x3210, 0x4321, 0x5432, 0x6543};
constexpr uint16_t prmt_b4e[4] = {0x5670, 0x6701, 0x7012, 0x0123};
constexpr uint16_t prmt_rc8[4] = {0x0000, 0x1111, 0x2222, 0x3333};
constexpr uint16_t prmt_ecl[4] = {0x3210, 0x3211, 0x3222, 0x3333};
constexpr uint16_t prmt_ecr[4] = {0x0000, 0x1110, 0x2210, 0x3210};
constexpr uint16_t prmt_rc16[4] = {0x1010, 0x3232, 0x1010, 0x3232};

// dp4a: four products of bytes, added to c.
template <class A, class B>
inline int32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  int64_t sum = int64_t(int32_t(c));
  for (int i = 0; i < 4; i++) sum += int64_t(A(a >> (8 * i))) * B(b >> (8 * i));
  return int32_t(sum);
}
// dp2a: two products of a's halves with the low or high bytes of b.
template <class A, class B>
inline int32_t dot2(uint32_t a, uint32_t b, uint32_t c, int first_byte) {
  int64_t sum = int64_t(int32_t(c));
  for (int i = 0; i < 2; i++) sum += int64_t(A(a >> (16 * i))) * B(b >> (8 * (i + first_byte)));
  return int32_t(sum);
}

// --- memory -------------------------------------------------------------------------------------

[[noreturn]] __attribute__((noinline, cold)) static void misaligned(uint64_t address,
                                                                    unsigned bytes, int line) {
  fail(MISALIGNED_ADDRESS, line, "address 0x%llx is not a multiple of %u",
       (unsigned long long)address, bytes);
}

[[noreturn]] __attribute__((noinline, cold)) static void bad_shared(uint32_t address,
                                                                    unsigned bytes, int line) {
  if (address % bytes) misaligned(address, bytes, line);
  fail(ILLEGAL_ADDRESS, line,
       "shared address 0x%x (+ %u bytes) is in no array; dynamic memory has %u bytes", address,
       bytes, machine.dynamic_bytes);
}

ALWAYS unsigned char* shared(uint64_t address, unsigned bytes, int line) {
  if (UNLIKELY(address >= SHARED_WINDOW || machine.shared_room[address] < bytes ||
               address % bytes != 0))
    bad_shared(uint32_t(address), bytes, line);
  return machine.shared + address;
}

ALWAYS unsigned char* global(Site& site, uint64_t address, unsigned bytes, int line) {
  machine.line = line;
  if (UNLIKELY(address % bytes != 0)) misaligned(address, bytes, line);
  if (UNLIKELY(address - site.first >= site.span)) find_live_range(site, address, bytes, line);
  return reinterpret_cast<unsigned char*>(address);
}

ALWAYS bool is_shared(uint64_t address) {
  return address - uint64_t(machine.shared) < SHARED_WINDOW;
}
ALWAYS bool is_local(uint64_t address) {
  return address - machine.stacks_first < machine.stacks_bytes;
}

// A kernel's local arrays lie on its fiber's stack.
ALWAYS unsigned char* local(uint64_t address, unsigned bytes, int line) {
  machine.line = line;
  if (UNLIKELY(address % bytes != 0)) misaligned(address, bytes, line);
  if (UNLIKELY(!is_local(address)))
    fail(ILLEGAL_ADDRESS, line, "0x%llx is no local address", (unsigned long long)address);
  return reinterpret_cast<unsigned char*>(address);
}

inline unsigned char* generic(Site& site, uint64_t address, unsigned bytes, int line) {
  if (is_shared(address)) return shared(address - uint64_t(machine.shared), bytes, line);
  if (is_local(address)) return local(address, bytes, line);
  return global(site, address, bytes, line);
}

template <class T>
ALWAYS T load(const unsigned char* from) {
  T value;
  memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
ALWAYS void store(unsigned char* to, T value) {
  memcpy(to, &value, sizeof value);
}

// One thread runs at a time, so read-modify-write is atomic. Returns the old value.
template <class T, class Change>
ALWAYS T atomically(unsigned char* at, Change change) {
  const T old = load<T>(at);
  store<T>(at, change(old));
  return old;
}

// The same of `atom`, the result of which a kernel may use to count blocks.
template <class T, class Change>
ALWAYS T atomically(unsigned char* at, int line, Change change) {
  remember_counter(at, sizeof(T), line);
  return atomically<T>(at, change);
}

// --- warps --------------------------------------------------------------------------------------

struct Shuffle {
  uint32_t value, control, segments;  // control and segments: operands b and c of shfl
  int mode;
  uint32_t result;
  bool is_inside;
};
enum ShuffleMode { SHUFFLE_IDX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_BFLY };

// The lane to read from, by PTX's own rule; and whether it is within the segment.
NO_RACE_CHECK inline int shuffle_source(const Shuffle& own, int lane, bool& is_inside) {
  const int control = int(own.control & 31), clamp = int(own.segments & 31);
  const int mask = int(own.segments >> 8 & 31);
  const int last = (lane & mask) | (clamp & ~mask), first = lane & mask;
  int source = 0;
  switch (own.mode) {
    case SHUFFLE_UP:
      source = lane - control;
      is_inside = source >= last;
      break;
    case SHUFFLE_DOWN:
      source = lane + control;
      is_inside = source <= last;
      break;
    case SHUFFLE_BFLY:
      source = lane ^ control;
      is_inside = source <= last;
      break;
    default: source = first | (control & ~mask); is_inside = source <= last;
  }
  return is_inside ? source : lane;
}

// The value of a lane that takes no part reads as poison.
NO_RACE_CHECK static void complete_shuffle(void* const payloads[WARP], uint32_t lanes) {
  for (uint32_t left = lanes; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    Shuffle& own = *static_cast<Shuffle*>(payloads[lane]);
    const int source = shuffle_source(own, lane, own.is_inside);
    own.result = lanes >> source & 1 ? static_cast<Shuffle*>(payloads[source])->value : 0xffffffff;
  }
}

inline uint32_t shuffle(Thread& self, ShuffleMode mode, uint32_t value, uint32_t control,
                        uint32_t segments, uint32_t mask, int line, bool* is_inside = nullptr) {
  Shuffle payload = {value, control, segments, mode, 0, false};
  collective(self, "shfl.sync", mask, line, &payload, complete_shuffle);
  if (is_inside) *is_inside = payload.is_inside;
  return payload.result;
}

struct LaneMasks {
  uint64_t value;
  uint32_t lanes, yes;  // lanes that took part; lanes that voted yes, or have the same value
};

NO_RACE_CHECK static void complete_gather(void* const payloads[WARP], uint32_t lanes) {
  for (uint32_t left = lanes; left; left &= left - 1) {
    LaneMasks& own = *static_cast<LaneMasks*>(payloads[__builtin_ctz(left)]);
    own.lanes = lanes;
    own.yes = 0;
    for (uint32_t other = lanes; other; other &= other - 1)
      if (static_cast<LaneMasks*>(payloads[__builtin_ctz(other)])->value == own.value)
        own.yes |= other & -other;
  }
}

// The lanes with the same value as this lane.
inline LaneMasks gather(Thread& self, const char* name, uint64_t value, uint32_t mask, int line) {
  LaneMasks payload = {value, 0, 0};
  collective(self, name, mask, line, &payload, complete_gather);
  return payload;
}

// The lanes that vote yes, and the lanes that vote.
inline LaneMasks ballot(Thread& self, bool vote, uint32_t mask, int line) {
  LaneMasks payload = gather(self, "vote.sync", vote, mask, line);
  if (!vote) payload.yes = payload.lanes & ~payload.yes;
  return payload;
}

template <class Int>
struct Reduced {
  Int value, result;
};

template <class Int, class Operation>
NO_RACE_CHECK static void complete_reduction(void* const payloads[WARP], uint32_t lanes) {
  Int result = static_cast<Reduced<Int>*>(payloads[__builtin_ctz(lanes)])->value;
  for (uint32_t left = lanes & (lanes - 1); left; left &= left - 1)
    result = Operation()(result, static_cast<Reduced<Int>*>(payloads[__builtin_ctz(left)])->value);
  for (uint32_t left = lanes; left; left &= left - 1)
    static_cast<Reduced<Int>*>(payloads[__builtin_ctz(left)])->result = result;
}

#define REDUCTION(NAME, EXPRESSION)      \
  struct NAME {                          \
    template <class Int>                 \
    Int operator()(Int a, Int b) const { \
      return Int(EXPRESSION);            \
    }                                    \
  };
REDUCTION(Add, a + b)
REDUCTION(Min, a < b ? a : b)
REDUCTION(Max, a > b ? a : b)
REDUCTION(And, a& b)
REDUCTION(Or, a | b)
REDUCTION(Xor, a ^ b)
#undef REDUCTION

template <class Int, class Operation>
inline Int reduce(Thread& self, Int value, uint32_t mask, int line) {
  Reduced<Int> payload = {value, 0};
  collective(self, "redux.sync", mask, line, &payload, complete_reduction<Int, Operation>);
  return payload.result;
}

// --- matrices -----------------------------------------------------------------------------------

constexpr uint32_t ALL_LANES = 0xffffffff;

struct MatrixLoad {
  uint64_t row;  // shared address of a row of 16 bytes: lane 8 i + r has row r of matrix i
  int count, line;
  bool is_transposed;
  uint32_t result[4];
};

NO_RACE_CHECK static void complete_matrix_load(void* const payloads[WARP], uint32_t lanes) {
  auto payload = [&](int lane) { return static_cast<MatrixLoad*>(payloads[lane]); };
  const int first = __builtin_ctz(lanes), count = payload(first)->count;
  if (lanes != ALL_LANES) fail(LAUNCH_FAILED, payload(first)->line, "ldmatrix needs all 32 lanes");
  for (int i = 0; i < count; i++) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; row++) {
      const MatrixLoad* from = payload(8 * i + row);
      memcpy(matrix[row], shared(from->row, 16, from->line), 16);
    }
    for (int lane = 0; lane < 32; lane++) {
      const int row = lane / 4, column = lane % 4 * 2;
      payload(lane)->result[i] = payload(lane)->is_transposed
                                     ? matrix[column][row] | uint32_t(matrix[column + 1][row]) << 16
                                     : matrix[row][column] | uint32_t(matrix[row][column + 1])
                                                                 << 16;
    }
  }
}

inline void load_matrices(Thread& self, MatrixLoad& payload) {
  collective(self, "ldmatrix", ALL_LANES, payload.line, &payload, complete_matrix_load);
}

// D = A B + C for 16 rows, 8 columns, K = 8 or 16. A's and B's registers hold pairs along K.
struct MatrixProduct {
  uint32_t a[4], b[2];
  float c[4], d[4];
  int line;
};

template <class Half, int K>
NO_RACE_CHECK static void complete_product(void* const payloads[WARP], uint32_t lanes) {
  auto payload = [&](int lane) { return static_cast<MatrixProduct*>(payloads[lane]); };
  if (lanes != ALL_LANES)
    fail(LAUNCH_FAILED, payload(__builtin_ctz(lanes))->line, "mma.sync needs all 32 lanes");
  float a[16][K], b[8][K];
  auto spread = [](float* to, uint32_t pair) {
    to[0] = Half::from(uint16_t(pair));
    to[1] = Half::from(uint16_t(pair >> 16));
  };
  for (int lane = 0; lane < 32; lane++) {
    const int group = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < K / 4; i++)
      spread(&a[group + i % 2 * 8][column + i / 2 * 8], payload(lane)->a[i]);
    for (int i = 0; i < K / 8; i++) spread(&b[group][column + i * 8], payload(lane)->b[i]);
  }
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      const float *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
      float sum = payload(lane)->c[i];
      for (int k = 0; k < K; k++) sum += row[k] * column[k];
      payload(lane)->d[i] = sum;
    }
}

template <class Half, int K>
inline void multiply_matrices(Thread& self, MatrixProduct& payload) {
  collective(self, "mma.sync", ALL_LANES, payload.line, &payload, complete_product<Half, K>);
}

// --- the rest -----------------------------------------------------------------------------------

inline uint64_t clock_ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#endif
}

// assert() of device code calls this: message, file, line, function, bytes of a character.
[[noreturn]] inline void assertion_failed(uint64_t message, uint64_t file, uint32_t source_line,
                                          int line) {
  fail(ASSERT, line, "assertion `%s` failed at %s:%u", reinterpret_cast<const char*>(message),
       reinterpret_cast<const char*>(file), source_line);
}

}  // namespace emulated
