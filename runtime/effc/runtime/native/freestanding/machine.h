/* What a machine's own file brings for library.c. */
#pragma once
#include <stddef.h>
#include <stdint.h>

void effc_write(int file, const char *bytes, size_t count);

/* The end of the program's memory, which is first moved to `end` unless that is NULL; NULL where there is not so much. */
uint8_t *effc_memory(uint8_t *end);
