#include "toy_npu.h"

int64_t toy_npu_calls = 0;

static float at(const struct toy_conv2d *s, const float *x, const float *w, int32_t image, int32_t top, int32_t left) {
  float sum = 0.0f;
  for (int32_t i = 0; i < s->kernel_height; ++i)
    for (int32_t j = 0; j < s->kernel_width; ++j) {
      const int32_t row = top + i, column = left + j;
      if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
      const float *pixel = x + (((int64_t)image * s->height + row) * s->width + column) * s->channels;
      const float *tap = w + ((int64_t)i * s->kernel_width + j) * s->channels;
      for (int32_t c = 0; c < s->channels; ++c) sum += pixel[c] * tap[c];
    }
  return sum;
}

int32_t toy_conv2d(const struct toy_conv2d *s, const float *x, const float *w, const float *bias, float *y) {
  if (s->images < 1 || s->channels < 1 || s->features < 1) return 1;
  ++toy_npu_calls;
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width * s->channels;
  for (int32_t n = 0; n < s->images; ++n)
    for (int32_t row = 0; row < s->out_height; ++row)
      for (int32_t column = 0; column < s->out_width; ++column)
        for (int32_t o = 0; o < s->features; ++o) {
          float value = at(s, x, w + o * taps, n, row * s->stride_y - s->padding_top, column * s->stride_x - s->padding_left);
          if (bias) value += bias[o];
          *y++ = s->relu && value < 0.0f ? 0.0f : value;
        }
  return 0;
}
