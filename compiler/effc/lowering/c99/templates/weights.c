/* @TITLE@: the weights, for read-only memory.
 *
 * Each array is a block: a tensor of the model, or what was computed of some when it was compiled. It lies as its kernel reads it: its axes
 * may stand in another order than in the model, an axis may be cut into tiles, and the last tile is filled up with zeros.
 */
@INCLUDES@

@WEIGHTS@