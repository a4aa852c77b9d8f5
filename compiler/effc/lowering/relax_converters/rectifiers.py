"""`aten.elu` with its three numbers, two of which TVM's importer ignores, so that SELU would come out wrong."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["elu"]


def elu(node: fx.Node, importer: Any) -> Any:
    """scale x above 0, scale alpha (exp(input_scale x) - 1) below (PyTorch's documentation of `elu` and `selu`)."""
    from tvm import te, tirx

    alpha, scale, input_scale = (float(value) for value in (*node.args[1:], *(1.0, 1.0, 1.0)[len(node.args) - 1 :]))  # type: ignore[arg-type]

    def computed(x: Any) -> Any:
        kind = str(x.dtype)

        def number(value: float) -> Any:
            return tirx.const(value, kind)

        def element(*i: Any) -> Any:
            below = (tirx.exp(x[i] * number(input_scale)) - number(1.0)) * number(scale * alpha)
            return tirx.Select(x[i] > number(0.0), x[i] * number(scale), below)

        return te.compute(x.shape, element, name="elu")

    return importer.block_builder.emit_te(computed, importer.env[node.args[0]], primfunc_name_hint="elu")
