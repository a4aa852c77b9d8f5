"""Programs as plain C99 for machines without an operating system: no heap, no C library calls, no TVM.

`printer` writes a kernel, `names` makes identifiers of the user's names, `sources` the files around them: `driver` the model's own,
`selftest` its golden vectors, `building` what builds and starts them. Longer texts lie in `templates`.
"""
