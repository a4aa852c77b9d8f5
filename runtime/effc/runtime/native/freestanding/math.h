/* What the self-test compares numbers with, where there is no C library. */
#pragma once

#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define isnan(x) __builtin_isnan(x)
#define isfinite(x) __builtin_isfinite(x)

static inline double fabs(double x) { return __builtin_fabs(x); }
static inline double fmax(double a, double b) { return isnan(a) || a < b ? b : a; }

static inline double ldexp(double x, int exponent) {
  for (; exponent > 0; --exponent) x *= 2;
  for (; exponent < 0; ++exponent) x /= 2;
  return x;
}
