/* Memory, where there is no C library; see library.c. */
#pragma once
#include <stddef.h>

void *aligned_alloc(size_t alignment, size_t bytes);
void free(void *place);
