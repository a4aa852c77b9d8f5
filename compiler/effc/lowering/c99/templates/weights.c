/* @TITLE@: the weights, for read-only memory. */
@INCLUDES@

@WEIGHTS@