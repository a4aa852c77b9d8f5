/* Runs a compiled model on its golden inputs, on a machine that has neither effc nor TVM, and compares the outputs: once, or, where it
 * keeps states, on the frames of a clip, of which the last one's outputs are compared.
 *
 * The generated model.h describes the model and names the file with its bytes, which the assembler puts into this program:
 *   EFFC_BLOB             path of the file: the parameters, then every input, then every expected output, each at a multiple of 64
 *   EFFC_BLOB_BYTES, EFFC_BLOB_CRC32   its size and checksum: compilers that cache (zig) do not notice when an assembled-in file changed
 *   EFFC_ARENA_BYTES      scratch memory of the model
 *   EFFC_CALL(arena, parameters, in, out)   calls its entry; the value is 0, or the step that failed
 *   EFFC_CALLS            how many calls there are
 *   EFFC_INPUTS, EFFC_OUTPUTS   lists of {name, kind, elements, offset in the blob}; the inputs of all calls, and the outputs of the last
 *   EFFC_TOLERANCE        for floating point, of an output's largest finite magnitude; integers must be equal
 * Prints one line an output, then PASS or FAIL with the largest error. Exit status: 0 pass, 1 fail, 2 the model could not run.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLOAT16, BFLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64 };

typedef struct {
  const char *name;
  enum kind kind;
  size_t elements, offset;
} Tensor;

#include "model.h"

static const size_t width[] = {2, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8};
static const Tensor inputs[] = {EFFC_INPUTS}, outputs[] = {EFFC_OUTPUTS};
enum { N_INPUTS = sizeof inputs / sizeof *inputs / EFFC_CALLS, N_OUTPUTS = sizeof outputs / sizeof *outputs };

extern const uint8_t effc_blob[];
__asm__(".section .rodata\n.balign 64\n.globl effc_blob\neffc_blob:\n.incbin \"" EFFC_BLOB "\"\n.byte 0\n.text\n");

static void *room(size_t bytes) { return aligned_alloc(64, bytes / 64 * 64 + 64); }

static uint32_t crc32(const uint8_t *bytes, size_t count) {
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < count; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
  }
  return ~crc;
}

static double half(uint16_t bits) {
  int sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexp(fraction + 1024, exponent - 25) : ldexp(fraction, -24);
  return sign ? -value : value;
}

static double real(const uint8_t *bytes, enum kind kind, size_t i) {
  uint16_t bits;
  uint32_t word;
  float single;
  double value;
  switch (kind) {
    case FLOAT16: return memcpy(&bits, bytes + 2 * i, 2), half(bits);
    case BFLOAT16: return memcpy(&bits, bytes + 2 * i, 2), word = (uint32_t)bits << 16, memcpy(&single, &word, 4), single;
    case FLOAT32: return memcpy(&single, bytes + 4 * i, 4), single;
    default: return memcpy(&value, bytes + 8 * i, 8), value;
  }
}

/* 0 when equal; the largest difference over the expectation's largest finite magnitude (1 where that is 0); INFINITY for a NaN or an
 * infinity on one side only, and for any integer that differs. */
static double error(const uint8_t *got, const uint8_t *expected, const Tensor *tensor) {
  double largest = 0, scale = 0;
  if (tensor->kind > FLOAT64) return memcmp(got, expected, tensor->elements * width[tensor->kind]) ? INFINITY : 0;
  for (size_t i = 0; i < tensor->elements; ++i) {
    double a = real(got, tensor->kind, i), b = real(expected, tensor->kind, i);
    if (isfinite(a) && isfinite(b)) {
      largest = fmax(largest, fabs(a - b));
      scale = fmax(scale, fabs(b));
    } else if (!(a == b || (isnan(a) && isnan(b)))) {
      return INFINITY;
    }
  }
  return largest / (scale > 0 ? scale : 1);
}

int main(void) {
  void *in[N_INPUTS], *out[N_OUTPUTS], *arena = room(EFFC_ARENA_BYTES);
  double worst = 0;
  if (crc32(effc_blob, EFFC_BLOB_BYTES) != EFFC_BLOB_CRC32) return fprintf(stderr, "the data in this program are not the model's\n"), 2;
  for (size_t i = 0; i < N_INPUTS; ++i) {
    in[i] = room(inputs[i].elements * width[inputs[i].kind]);
  }
  for (size_t i = 0; i < N_OUTPUTS; ++i) {
    size_t bytes = outputs[i].elements * width[outputs[i].kind];
    out[i] = room(bytes);
    if (out[i]) memset(out[i], 0xA5, bytes); /* an output that nobody writes must not pass by luck */
  }
  for (size_t i = 0; i < N_INPUTS + N_OUTPUTS; ++i) {
    if (!arena || !(i < N_INPUTS ? in[i] : out[i - N_INPUTS])) return fprintf(stderr, "out of memory\n"), 2;
  }
  for (size_t call = 0; call < EFFC_CALLS; ++call) {
    const Tensor *given = inputs + call * N_INPUTS;
    for (size_t i = 0; i < N_INPUTS; ++i) memcpy(in[i], effc_blob + given[i].offset, given[i].elements * width[given[i].kind]);
    int32_t code = EFFC_CALL(arena, effc_blob, in, out);
    if (code != 0) return fprintf(stderr, "the model failed with code %d\n", (int)code), 2;
  }
  for (size_t i = 0; i < N_OUTPUTS; ++i) {
    double relative = error(out[i], effc_blob + outputs[i].offset, &outputs[i]);
    printf("%s: %zu elements, error %.3g\n", outputs[i].name, outputs[i].elements, relative);
    worst = fmax(worst, relative);
  }
  printf("%s: largest error %.3g, allowed %.3g\n", worst <= EFFC_TOLERANCE ? "PASS" : "FAIL", worst, (double)EFFC_TOLERANCE);
  return worst <= EFFC_TOLERANCE ? 0 : 1;
}
