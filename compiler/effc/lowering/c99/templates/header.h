/* @TITLE@
 *
 *   static union { uint64_t aligned; uint8_t bytes[@MACRO@_ARENA_BYTES]; } arena;
@EXAMPLE@
 *
 * Nothing here allocates memory, prints, or writes to memory that was not given to it. An arena serves one call at a time; calls with
 * arenas of their own may run at the same time. Between two calls the arena may serve something else.
 */
#ifndef @MACRO@_H
#define @MACRO@_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Scratch memory of a call: bytes, and the multiple at which it must lie. */
#define @MACRO@_ARENA_BYTES @ARENA@u
#define @MACRO@_ARENA_ALIGNMENT 8u

/* Elements of each input and output. The last axis is contiguous; inputs and outputs must not overlap. */
@ELEMENTS@

/* What the functions return: 0, or what is wrong. */
#define @MACRO@_OK 0
#define @MACRO@_TOO_SMALL 1  /* the arena has fewer bytes than @MACRO@_ARENA_BYTES */
#define @MACRO@_MISALIGNED 2 /* the arena does not lie at a multiple of @MACRO@_ARENA_ALIGNMENT */
#define @MACRO@_NULL 3       /* a pointer is NULL */

@STATES@/* Checks an arena before its first use@INIT@. */
int32_t @PREFIX@_init(void *arena, size_t bytes@STATES_PARAMETER@);

/* Computes the outputs. */
int32_t @PREFIX@_run(@PARAMETERS@);

/* Which effc wrote this, and the beginning of the model's SHA-256. */
const char *@PREFIX@_version(void);

/* Reads all weights: 0 where they are what effc wrote, else 1 + the number of the first block that is damaged. A block is one array of
 * @PREFIX@_weights.c, where a comment gives its number and its tensor. */
int32_t @PREFIX@_check_weights(void);
#define @MACRO@_WEIGHT_BLOCKS @BLOCKS@u

#ifdef __cplusplus
}
#endif

#endif
