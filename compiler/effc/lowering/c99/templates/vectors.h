/* @TITLE@: golden inputs, and what the model computes of them. */
#ifndef @MACRO@_TEST_VECTORS_H
#define @MACRO@_TEST_VECTORS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { EFFC_CALLS = @CALLS@ };

@VECTORS@
#endif
