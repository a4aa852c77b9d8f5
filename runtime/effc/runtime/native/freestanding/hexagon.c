/* Hexagon without an operating system's libraries: the start of the program, system calls as Linux numbers them, and the arithmetic that has
 * no instruction: division, square roots, rounding.
 *
 * Quotients and roots are found digit by digit, as by hand, and rounded once to the nearest, ties to even: what IEEE 754 asks for, and the
 * same as on any other processor.
 */
#include <stdint.h>
#include <string.h>

#include "machine.h"

enum { WRITE = 64, EXIT_GROUP = 94, BRK = 214 };

__asm__(".text\n.globl _start\n_start:\n  { r29 = and(r29, #-128) }\n  { call main }\n  { r6 = #94 }\n  { trap0(#1) }\n");

static intptr_t system_call(int number, intptr_t first, intptr_t second, intptr_t third) {
  register intptr_t r0 __asm__("r0") = first;
  register intptr_t r1 __asm__("r1") = second;
  register intptr_t r2 __asm__("r2") = third;
  register int r6 __asm__("r6") = number;
  __asm__ volatile("trap0(#1)" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r6) : "memory");
  return r0;
}

void effc_write(int file, const char *bytes, size_t count) { system_call(WRITE, file, (intptr_t)bytes, (intptr_t)count); }

uint8_t *effc_memory(uint8_t *end) {
  uint8_t *now = (uint8_t *)system_call(BRK, (intptr_t)end, 0, 0); /* where it could not be moved, it stays where it was */
  return now < end ? NULL : now;
}

/* What LLVM calls where both places are aligned and the number of bytes is a multiple of 8, of at least 32. */
void *__hexagon_memcpy_likely_aligned_min32bytes_mult8bytes(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes); }

/* Whole numbers. */

static uint64_t divided(uint64_t a, uint64_t b, uint64_t *rest) {
  uint64_t quotient = 0, left = 0;
  for (int bit = 63; bit >= 0; --bit) {
    uint64_t over = left >> 63;
    left = left << 1 | (a >> bit & 1);
    if (over || left >= b) left -= b, quotient |= UINT64_C(1) << bit;
  }
  *rest = left;
  return quotient;
}

static uint32_t divided32(uint32_t a, uint32_t b, uint32_t *rest) {
  uint32_t quotient = 0;
  uint64_t left = 0;
  for (int bit = 31; bit >= 0; --bit) {
    left = left << 1 | (a >> bit & 1);
    if (left >= b) left -= b, quotient |= UINT32_C(1) << bit;
  }
  *rest = (uint32_t)left;
  return quotient;
}

static uint32_t size32(int32_t a) { return a < 0 ? 0 - (uint32_t)a : (uint32_t)a; }
static uint64_t size64(int64_t a) { return a < 0 ? 0 - (uint64_t)a : (uint64_t)a; }

uint32_t __hexagon_udivsi3(uint32_t a, uint32_t b) { return divided32(a, b, &a); }
uint64_t __hexagon_udivdi3(uint64_t a, uint64_t b) { return divided(a, b, &a); }

uint32_t __hexagon_umodsi3(uint32_t a, uint32_t b) {
  divided32(a, b, &a);
  return a;
}

uint64_t __hexagon_umoddi3(uint64_t a, uint64_t b) {
  divided(a, b, &a);
  return a;
}

int32_t __hexagon_divsi3(int32_t a, int32_t b) {
  uint32_t quotient = __hexagon_udivsi3(size32(a), size32(b));
  return (int32_t)((a ^ b) < 0 ? 0 - quotient : quotient);
}

int64_t __hexagon_divdi3(int64_t a, int64_t b) {
  uint64_t quotient = __hexagon_udivdi3(size64(a), size64(b));
  return (int64_t)((a ^ b) < 0 ? 0 - quotient : quotient);
}

int32_t __hexagon_modsi3(int32_t a, int32_t b) {
  uint32_t rest = __hexagon_umodsi3(size32(a), size32(b));
  return (int32_t)(a < 0 ? 0 - rest : rest);
}

int64_t __hexagon_moddi3(int64_t a, int64_t b) {
  uint64_t rest = __hexagon_umoddi3(size64(a), size64(b));
  return (int64_t)(a < 0 ? 0 - rest : rest);
}

/* Floating point, by the bits: formats of IEEE 754 with `fraction` bits behind the point and exponents up to `most`. */

typedef struct {
  int fraction, most;
} Format;

static const Format SINGLE = {23, 255}, DOUBLE = {52, 2047};

static uint64_t infinity(Format f) { return (uint64_t)f.most << f.fraction; }
static uint64_t not_a_number(Format f) { return infinity(f) | UINT64_C(1) << (f.fraction - 1); }

/* A number that is neither 0 nor infinite nor NaN, without its sign, as mantissa * 2^(exponent - bias - fraction), the mantissa's highest bit
 * at `fraction`. */
static uint64_t mantissa(uint64_t bits, Format f, int *exponent) {
  uint64_t one = UINT64_C(1) << f.fraction, value = bits & (one - 1);
  *exponent = (int)(bits >> f.fraction);
  if (*exponent) return value | one;
  for (*exponent = 1; value < one; value <<= 1) --*exponent;
  return value;
}

/* The nearest number to digits * 2^(exponent - bias - fraction - 2), whose highest bit is at `fraction` + 2, and a little more where `more`. */
static uint64_t rounded(uint64_t digits, int more, int exponent, Format f) {
  for (; exponent < 1; ++exponent) { /* a subnormal number has fewer digits */
    if (digits == 0) break;
    more |= digits & 1, digits >>= 1;
  }
  if (exponent >= f.most) return infinity(f);
  uint64_t whole = digits >> 2;
  int up = (digits & 2) && ((digits & 1) || more || (whole & 1));
  return ((uint64_t)(exponent < 1 ? 0 : exponent - 1) << f.fraction) + whole + (uint64_t)up; /* a carry goes into the exponent */
}

static uint64_t quotient(uint64_t a, uint64_t b, Format f) {
  uint64_t top = (uint64_t)(f.most + 1) << f.fraction, sign = (a ^ b) & top, digits = 0;
  int left, right;
  a &= top - 1, b &= top - 1;
  if (a > infinity(f) || b > infinity(f) || (a == b && (a == 0 || a == infinity(f)))) return not_a_number(f);
  if (a == infinity(f) || b == 0) return sign | infinity(f);
  if (a == 0 || b == infinity(f)) return sign;
  a = mantissa(a, f, &left), b = mantissa(b, f, &right);
  if (a < b) a <<= 1, --left;
  for (int place = f.fraction + 2; place >= 0; --place, a <<= 1) {
    digits <<= 1;
    if (a >= b) a -= b, digits |= 1;
  }
  return sign | rounded(digits, a != 0, left - right + f.most / 2, f);
}

static uint64_t root(uint64_t a, Format f) {
  uint64_t top = (uint64_t)(f.most + 1) << f.fraction, digits = 0, rest = 0;
  int exponent, bias = f.most / 2;
  if ((a & (top - 1)) == 0) return a; /* of -0, too */
  if (a == infinity(f)) return a;
  if (a > infinity(f)) return not_a_number(f);
  a = mantissa(a, f, &exponent) << (f.fraction % 2); /* an even number of bits behind the point */
  exponent -= bias;
  if (exponent & 1) a <<= 1, --exponent;
  for (int place = f.fraction + f.fraction % 2, count = f.fraction + 3; count > 0; --count, place -= 2) {
    rest = rest << 2 | (place >= 0 ? a >> place & 3 : 0);
    digits <<= 1;
    if (rest >= (digits << 1 | 1)) rest -= digits << 1 | 1, digits |= 1;
  }
  return rounded(digits, rest != 0, exponent / 2 + bias, f);
}

static uint32_t bits32(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

static float single(uint64_t bits) {
  uint32_t low = (uint32_t)bits;
  float x;
  __builtin_memcpy(&x, &low, sizeof x);
  return x;
}

static uint64_t bits64(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

static double twofold(uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

float __hexagon_divsf3(float a, float b) { return single(quotient(bits32(a), bits32(b), SINGLE)); }
double __hexagon_divdf3(double a, double b) { return twofold(quotient(bits64(a), bits64(b), DOUBLE)); }
float sqrtf(float x) { return single(root(bits32(x), SINGLE)); }
float __hexagon_sqrtf(float x) { return sqrtf(x); }
double sqrt(double x) { return twofold(root(bits64(x), DOUBLE)); }

/* Rounding: from 2^23 on every float is whole. The sign is kept, that of zero, too. */

static float signed_as(float size, float x) { return single((bits32(size) & 0x7FFFFFFFu) | (bits32(x) & 0x80000000u)); }
static int whole(float x) { return !(__builtin_fabsf(x) < 0x1p23f); }

long lrintf(float x) {
  int32_t result;
  __asm__("%0 = convert_sf2w(%1)" : "=r"(result) : "r"(x)); /* to the nearest, ties to even */
  return result;
}

float rintf(float x) { return whole(x) ? x : signed_as((float)lrintf(x), x); }
float nearbyintf(float x) { return rintf(x); }
float roundevenf(float x) { return rintf(x); }
float truncf(float x) { return whole(x) ? x : signed_as((float)(int32_t)x, x); }

float floorf(float x) {
  float down = truncf(x);
  return down > x ? signed_as(down - 1, x) : down;
}

float ceilf(float x) {
  float up = truncf(x);
  return up < x ? up + 1 : up;
}
