/* @TITLE@: runs the model on its golden vectors.
 *
 * Exit status: 0 all outputs are right, 1 one is not, 2 the model could not run: its weights are damaged, or the arena is refused.
 */
#include <string.h>

#include "@PREFIX@.h"
#include "test_vectors.h"

static union {
  uint64_t aligned;
  uint8_t bytes[@MACRO@_ARENA_BYTES];
} arena;
@MEMORY@

@COMPARE@
int main(void) {
  if (@PREFIX@_check_weights() != 0) {
    return 2;
  }
  if (@PREFIX@_init(&arena, sizeof arena@STATES_ARGUMENT@) != @MACRO@_OK) {
    return 2;
  }
  for (int call = 0; call < EFFC_CALLS; ++call) {
    memset(&arena, 0xFF, sizeof arena); /* what no kernel wrote must not pass by luck: NaN, or -1 */
@FILL@
    if (@PREFIX@_run(@ARGUMENTS@) != @MACRO@_OK) {
      return 2;
    }
@CHECKS@  }
  return 0;
}
