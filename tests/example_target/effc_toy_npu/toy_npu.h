/* The toy library: what a vendor would ship for an accelerator. */
#ifndef TOY_NPU_H
#define TOY_NPU_H

#include <stdint.h>

struct toy_conv2d {
  int32_t images, height, width, channels;                 /* of the input: NHWC */
  int32_t features, kernel_height, kernel_width;           /* weights: OHWI */
  int32_t out_height, out_width;                           /* of the output: NHWC */
  int32_t stride_y, stride_x, padding_top, padding_left;
  int32_t relu;
};

/* How many convolutions the library has computed in this process. */
extern int64_t toy_npu_calls;

/* y = [relu](conv2d(x, w) + bias); bias may be null. Gives 0, or 1 for a shape that is not positive. */
int32_t toy_conv2d(const struct toy_conv2d *shape, const float *x, const float *w, const float *bias, float *y);

#endif
