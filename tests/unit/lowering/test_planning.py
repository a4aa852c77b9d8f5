"""Steps of a module that calls equal functions of equal operands."""

from __future__ import annotations

from effc.ir import Batch
from effc.ir.interface import Interface, Value
from effc.lowering.optimise import Fused, Part
from effc.lowering.planning import draft
from effc.lowering.to_relax import Origin


def test_only_movements_are_made_once_and_outputs_that_are_one_value_are_copied() -> None:
    """What is computed twice need not lie in memory in between, and both calls are in the plan, with the names of their nodes."""
    from tvm import relax, topi

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3, 5], "float32"))
    with builder.function("main", [x]):
        made = [builder.emit_te(function, x) for function in (topi.transpose, topi.transpose, topi.sigmoid, topi.sigmoid)]
        builder.emit_func_output(relax.Tuple(made))
    module = builder.get()
    names = [function.name_hint for function in module.functions if function.name_hint != "main"]
    fused = Fused(module, {name: (Part(Origin(name, name, name), name, 0),) for name in names}, {})
    outputs = tuple(Value(f"y{index}", shape, "float32") for index, shape in enumerate([(5, 3), (5, 3), (3, 5), (3, 5)]))
    calls = draft(fused, Interface((Value("x", (3, 5), "float32"),), outputs, Batch(False)), {}, ["x"]).calls
    assert [(call.reads, call.writes) for call in calls] == [
        (("x",), ("y0",)),
        (("x",), ("y2",)),
        (("x",), ("y3",)),
        (("y0",), ("y1",)),
    ]
    assert calls[1].function == calls[2].function
