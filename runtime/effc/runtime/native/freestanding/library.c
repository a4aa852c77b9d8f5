/* The few functions of a C library that a compiled model and its self-test call, for machines that have none.
 *
 * The machine's own file (hexagon.c) brings `effc_write`, `effc_memory`, the start of the program, and the arithmetic that the compiler
 * expects of its own library. Built with -ffreestanding, so that no loop below becomes a call of what it implements.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

FILE effc_stderr = 2;
static FILE effc_stdout = 1;

typedef uint32_t __attribute__((may_alias)) word; /* four bytes of anything */

void *memcpy(void *to, const void *from, size_t bytes) {
  uint8_t *write = to;
  const uint8_t *read = from;
  if (((uintptr_t)to | (uintptr_t)from) % sizeof(uint32_t) == 0) {
    for (; bytes >= sizeof(uint32_t); bytes -= sizeof(uint32_t), write += sizeof(uint32_t), read += sizeof(uint32_t)) {
      *(word *)write = *(const word *)read;
    }
  }
  while (bytes--) *write++ = *read++;
  return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
  if ((uintptr_t)to - (uintptr_t)from >= bytes) return memcpy(to, from, bytes); /* no byte is written before it is read */
  while (bytes--) ((uint8_t *)to)[bytes] = ((const uint8_t *)from)[bytes];
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  uint8_t *write = to;
  while (bytes--) *write++ = (uint8_t)value;
  return to;
}

int memcmp(const void *left, const void *right, size_t bytes) {
  const uint8_t *a = left, *b = right;
  for (; bytes--; ++a, ++b) {
    if (*a != *b) return *a < *b ? -1 : 1;
  }
  return 0;
}

/* Blocks lie one behind the other, each behind what is known of it. The memory of one is free again when all behind it are, which is
 * what a kernel's scratch memory needs. */
typedef struct block {
  struct block *before;
  uint8_t *start; /* where free memory began before it */
  int taken;
} Block;
static uint8_t *top;
static Block *last;

void *aligned_alloc(size_t alignment, size_t bytes) {
  uintptr_t place;
  if (top == NULL) top = effc_memory(NULL);
  if (alignment < _Alignof(Block)) alignment = _Alignof(Block);
  place = ((uintptr_t)top + sizeof(Block) + alignment - 1) / alignment * alignment;
  if (bytes > UINTPTR_MAX - place || effc_memory((uint8_t *)place + bytes) == NULL) return NULL;
  Block *block = (Block *)place - 1;
  *block = (Block){last, top, 1};
  last = block;
  top = (uint8_t *)place + bytes;
  return (void *)place;
}

void free(void *place) {
  if (place == NULL) return;
  ((Block *)place)[-1].taken = 0;
  for (; last != NULL && !last->taken; last = last->before) top = last->start;
}

int fputs(const char *text, FILE *file) {
  size_t length = 0;
  while (text[length]) ++length;
  effc_write(*file, text, length);
  return 0;
}

int fputc(int letter, FILE *file) {
  char one = (char)letter;
  effc_write(*file, &one, 1);
  return letter;
}

static void print_natural(FILE *file, size_t number) {
  char digits[24], *first = digits + sizeof digits - 1;
  *first = 0;
  do *--first = (char)('0' + number % 10);
  while (number /= 10);
  fputs(first, file);
}

/* As %.3g prints it, but for the last digit where the third is hard to round. */
static void print_real(FILE *file, double value) {
  int exponent = 0, digits, places = 3;
  if (value != value) return (void)fputs("nan", file);
  if (value < 0) fputc('-', file), value = -value;
  if (value > 1.7976931348623157e308) return (void)fputs("inf", file);
  if (value == 0) return (void)fputc('0', file);
  for (; value >= 10; ++exponent) value /= 10;
  for (; value < 1; --exponent) value *= 10;
  digits = (int)(value * 100 + 0.5);
  if (digits == 1000) digits = 100, ++exponent;
  for (; digits % 10 == 0; digits /= 10) --places; /* as many digits as are left */
  int scientific = exponent < -4 || exponent > 2, before = scientific ? 1 : exponent + 1, divisor = 1;
  for (; places < before; ++places) digits *= 10;
  if (before < 1) fputs("0.", file);
  for (int zero = before; zero < 0; ++zero) fputc('0', file);
  for (int place = 1; place < places; ++place) divisor *= 10;
  for (int place = 0; place < places; ++place, divisor /= 10) {
    if (place == before && place > 0) fputc('.', file);
    fputc('0' + digits / divisor % 10, file);
  }
  if (!scientific) return;
  fputs(exponent < 0 ? "e-" : "e+", file);
  if (exponent < 0) exponent = -exponent;
  if (exponent < 10) fputc('0', file);
  print_natural(file, (size_t)exponent);
}

/* %s, %d, %zu and %.3g. */
static void print(FILE *file, const char *format, va_list values) {
  for (; *format; ++format) {
    if (*format != '%') {
      fputc(*format, file);
    } else if (format[1] == 's') {
      fputs(va_arg(values, const char *), file), format += 1;
    } else if (format[1] == 'd') {
      int number = va_arg(values, int);
      if (number < 0) fputc('-', file);
      print_natural(file, number < 0 ? 0u - (unsigned)number : (unsigned)number), format += 1;
    } else if (format[1] == 'z') {
      print_natural(file, va_arg(values, size_t)), format += 2;
    } else {
      print_real(file, va_arg(values, double)), format += 3;
    }
  }
}

int printf(const char *format, ...) {
  va_list values;
  va_start(values, format);
  print(&effc_stdout, format, values);
  va_end(values);
  return 0;
}

int fprintf(FILE *file, const char *format, ...) {
  va_list values;
  va_start(values, format);
  print(file, format, values);
  va_end(values);
  return 0;
}
