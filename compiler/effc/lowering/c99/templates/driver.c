/* @TITLE@ */
#include "@PREFIX@.h"

@INCLUDES@

/* Kept apart, so that a debugger, a map file and -fstack-usage show each of them. Arena memory changes its type from one to the next. */
#if defined(__GNUC__)
#define EFFC_KERNEL __attribute__((noinline))
#else
#define EFFC_KERNEL
#endif

@WEIGHTS@
@HELPERS@
@KERNELS@
int32_t @PREFIX@_init(void *arena, size_t bytes@STATES_PARAMETER@) {
  if (@NULL_INIT@) {
    return @MACRO@_NULL;
  }
  if (bytes < @MACRO@_ARENA_BYTES) {
    return @MACRO@_TOO_SMALL;
  }
  if ((uintptr_t)arena % @MACRO@_ARENA_ALIGNMENT != 0u) {
    return @MACRO@_MISALIGNED;
  }
@RESET@  return @MACRO@_OK;
}

int32_t @PREFIX@_run(@PARAMETERS@) {
@BODY@
  return @MACRO@_OK;
}

const char *@PREFIX@_version(void) {
  return "@VERSION@";
}

@CHECK@
