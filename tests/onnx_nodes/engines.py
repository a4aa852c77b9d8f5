"""Three ways to run a case: node by node in torch, as an exported Program, and as machine code made by TVM.

Each returns the outputs as arrays or raises `UnsupportedModelError`; anything else is a failure of effc.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.errors import UnsupportedModelError
from effc.ir.arrays import to_numpy, to_torch
from tests.onnx_nodes.cases import Case, difference

Arrays = Sequence[np.ndarray[Any, Any]]
Engine = Callable[[Case], Arrays]


def interpret(case: Case) -> Arrays:
    """The operator functions alone, without torch.export: seconds for all cases."""
    from effc.frontends import Limits
    from effc.frontends.onnx.checking import find_problems
    from effc.frontends.onnx.interpreter import OnnxModule
    from effc.frontends.onnx.loader import model_from_bytes
    from effc.frontends.onnx.signature import input_signature

    limits = Limits()
    model = model_from_bytes(case.model.SerializeToString(), case.name, Path(), limits)
    module = OnnxModule(model, limits).eval()
    inputs = input_signature(model.proto.graph, {value.name: x.shape for value, x in zip(case.model.graph.input, case.inputs, strict=True)})
    problems = find_problems(module, inputs, model)
    if problems:
        raise UnsupportedModelError(case.name, problems)
    with torch.no_grad():
        return [to_numpy(result) for result in module(*map(to_torch, case.inputs))]


def load(case: Case) -> Any:
    """The case's Program."""
    from effc.frontends import load_program

    shapes = {value.name: x.shape for value, x in zip(case.model.graph.input, case.inputs, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{case.name}.onnx")
        path.write_bytes(case.model.SerializeToString())
        return load_program(path, input_shapes=shapes, check_import=False)  # the case has its own expected outputs


def run_program(case: Case) -> Arrays:
    program = load(case)
    values = zip((value.name for value in program.interface.inputs), map(to_torch, case.inputs), strict=True)
    return [to_numpy(result) for result in program.run(dict(values)).values()]


def run_tvm(case: Case) -> Arrays:
    from effc.lowering import lower, run_lowered
    from effc.targets import find_target

    program = load(case)
    batch = case.inputs[0].shape[0] if program.interface.batch.symbolic else 1
    lowered = lower(program, find_target("cpu"), batch=batch)
    values = dict(zip((value.name for value in program.interface.inputs), case.inputs, strict=True))
    return list(run_lowered(lowered, program, values).values())


ENGINES: dict[str, Engine] = {"interpreter": interpret, "program": run_program, "tvm": run_tvm}


def verdict(case: Case, engine: str) -> tuple[str, str]:
    """("pass", how), ("refused", why) or ("wrong", what): as it is, or else with its later inputs as constants."""
    run = ENGINES[engine]
    refusal = ""
    for form, tried in (("as is", lambda: case), ("bound", case.bound)):
        if form == "bound" and len(case.inputs) < 2:
            break
        try:
            found = difference(case, run(tried()))
        except UnsupportedModelError as error:
            refusal = "; ".join(f"{problem.what}: {problem.why}" for problem in error.problems) or error.message
        except Exception as error:  # noqa: BLE001 - any other exception is the finding that is counted
            return "wrong", f"{form}: {type(error).__name__}: {str(error).strip()[:300]}"
        else:
            return ("wrong", f"{form}: {found}") if found else ("pass", form)
    return "refused", refusal
