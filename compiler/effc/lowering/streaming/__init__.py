"""Streaming programs that compute only what changed: from the dense meaning of their graph to steps over lists of pixels.

stripping   the program without its truncations: dense, every value that is kept from frame to frame is an output
keeping     those outputs as the kernels write them (channels last), and the frame as the first step writes it
stages      which kernel calls of the dense draft run over lists, which are compared afterwards, which stay dense
drafting    the calls of a frame that is not computed whole, and of one that is, over shared buffers
"""

from __future__ import annotations

__all__: list[str] = []
