/* What `embedded_start.c` gives to the program that measures. */
#include <stdint.h>

typedef struct {
  uint32_t function; /* its address */
  uint32_t ticks;    /* from its entry to its exit */
} call_record;

extern call_record calls[]; /* of functions that the code under test calls from its entry, in order */
extern uint32_t call_count;

uint32_t ticks(void); /* of 40 ns, since the start */
