"""What kernels in C call instead of the C library: each helper by its name. A file holds those that its functions call."""

from __future__ import annotations

__all__ = ["HELPERS"]

HELPERS: dict[str, str] = {
    "effc_nearest": """\
/* To the nearest integer, halves to the even one. The sum with 2^23 of its sign is rounded so by the processor. */
static int32_t effc_nearest(float x) {
  if (x > -8388608.0f && x < 8388608.0f) {
    const float large = x < 0.0f ? -8388608.0f : 8388608.0f;
    volatile float sum = x + large;
    return (int32_t)(sum - large);
  }
  return x >= 2147483648.0f || x < -2147483648.0f || x != x ? INT32_MIN : (int32_t)x;
}
""",
    "effc_nearest_float": """\
/* To the nearest integer, halves to the even one. The sum with 2^23 of its sign is rounded so by the processor. */
static float effc_nearest_float(float x) {
  if (x > 0.0f && x < 8388608.0f) {
    volatile float sum = x + 8388608.0f;
    return sum - 8388608.0f;
  }
  if (x < 0.0f && x > -8388608.0f) {
    volatile float sum = x - 8388608.0f;
    return sum == -8388608.0f ? -0.0f : sum + 8388608.0f;
  }
  return x;
}
""",
    "effc_trunc": """\
/* Towards zero. */
static float effc_trunc(float x) {
  if (x > -8388608.0f && x < 8388608.0f && x != 0.0f) {
    float whole = (float)(int32_t)x;
    return whole == 0.0f && x < 0.0f ? -0.0f : whole;
  }
  return x;
}
""",
    "effc_floor": """\
static float effc_floor(float x) {
  if (x > -8388608.0f && x < 8388608.0f && x != 0.0f) {
    float whole = (float)(int32_t)x;
    return whole > x ? whole - 1.0f : whole;
  }
  return x;
}
""",
    "effc_ceil": """\
static float effc_ceil(float x) {
  if (x > -8388608.0f && x < 8388608.0f && x != 0.0f) {
    float whole = (float)(int32_t)x;
    whole = whole < x ? whole + 1.0f : whole;
    return whole == 0.0f && x < 0.0f ? -0.0f : whole;
  }
  return x;
}
""",
    "effc_bits": """\
static int32_t effc_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
""",
    "effc_float": """\
static float effc_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
""",
    "effc_sqrt": """\
/* The correctly rounded square root: an estimate from the exponent, Newton's steps in double precision. */
static float effc_sqrt(float x) {
  uint32_t bits;
  float estimate;
  double root;
  int step;
  if (!(x > 0.0f) || x > 3.402823466e+38f) {
    return x == 0.0f || x > 0.0f ? x : (x - x) / (x - x);
  }
  memcpy(&bits, &x, sizeof bits);
  bits = bits < 0x00800000u ? 0x1f800000u : 0x1fbd1df5u + (bits >> 1);
  memcpy(&estimate, &bits, sizeof estimate);
  root = (double)estimate;
  for (step = 0; step < 40; ++step) {
    double next = 0.5 * (root + (double)x / root);
    double apart = next > root ? next - root : root - next;
    root = next;
    if (apart <= root * 1e-15) {
      break;
    }
  }
  return (float)root;
}
""",
}
for _real, _short, _mark, _below in (("float", "f32", "f", 0), ("double", "f64", "", 1)):
    for _bits in (32, 64):
        _end = 1 << (_bits - 1)
        # The last number that becomes the least integer: the doubles behind -2^31 do, towards zero.
        _least = f"x > {-_end - 1}.0" if _below and _bits == 32 else f"x >= {-_end}.0{_mark}"
        HELPERS[f"effc_i{_bits}_{_short}"] = (
            "/* Towards zero; what does not fit, and NaN, becomes the least integer, as on x86-64. */\n"
            f"static int{_bits}_t effc_i{_bits}_{_short}({_real} x) {{\n"
            f"  return {_least} && x < {_end}.0{_mark} ? (int{_bits}_t)x : INT{_bits}_MIN;\n}}\n"
        )
    HELPERS[f"effc_u64_{_short}"] = (
        "/* Towards zero, negative numbers as if through int64_t; what does not fit becomes 0 or, as NaN, 2^63, as on x86-64. */\n"
        f"static uint64_t effc_u64_{_short}({_real} x) {{\n"
        f"  if (x >= {1 << 63}.0{_mark}) {{\n    return x < {1 << 64}.0{_mark} ? (uint64_t)x : 0u;\n  }}\n"
        f"  return x >= -{1 << 63}.0{_mark} ? (uint64_t)(int64_t)x : UINT64_C({1 << 63});\n}}\n"
    )
for _kind, _short in (("int32_t", "i32"), ("float", "f32"), ("uint32_t", "u32"), ("int64_t", "i64")):
    for _name, _sign in (("min", "<"), ("max", ">")):
        HELPERS[f"effc_{_name}_{_short}"] = (
            f"static {_kind} effc_{_name}_{_short}({_kind} a, {_kind} b) {{\n  return a {_sign} b ? a : b;\n}}\n"
        )
