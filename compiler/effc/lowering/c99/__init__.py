"""Programs as plain C99 for machines without an operating system: no heap, no C library calls, no TVM.

`printer` writes a kernel, `names` makes identifiers of the user's names, `sources` the files around them.
"""
