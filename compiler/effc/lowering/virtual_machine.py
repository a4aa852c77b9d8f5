"""The way for graphs that do not plan: TVM's own pipeline and its relax virtual machine. Slower, and it needs TVM where it runs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effc.errors import UnsupportedModelError
from effc.lowering.half_floats import needs_bits
from effc.lowering.relax_converters.attention import written_out
from effc.lowering.to_relax import RelaxModule
from effc.lowering.toolchain import link_shared
from effc.targets import Target

__all__ = ["FUNCTION", "virtual_machine_code"]

FUNCTION = "main"


def virtual_machine_code(module: RelaxModule, target: Target, tvm_target: Any) -> bytes:
    """A shared library with the function `main(inputs..., parameters...)` for TVM's virtual machine.

    Raises UnsupportedModelError for float16 on processors that do not have it: what TVM does there is wrong (see `half_floats`).
    """
    from tvm import relax

    if needs_bits(tvm_target) and re.search(r"\bfloat16\b", module.module.script(show_meta=False)):
        what = "the program needs TVM's virtual machine (it sorts, or has shapes that depend on data) and computes in float16"
        raise UnsupportedModelError(f"target {target.name}: {what}, which this processor does not have; let the model compute in float32")
    executable = relax.build(written_out(_inputs_first(module)), tvm_target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.so")

        def linked(output: str, objects: Sequence[str], **_: Any) -> None:
            Path(output).write_bytes(link_shared([Path(file).read_bytes() for file in objects], target))

        executable.export_library(str(path), fcompile=linked, workspace_dir=folder)
        return path.read_bytes()


def _inputs_first(module: RelaxModule) -> Any:
    import tvm
    from tvm import relax

    variable = module.module.get_global_var("main")
    main = module.module[variable]
    by_name = {str(argument.name): argument for argument in main.params}
    ordered = [by_name[name] for name in (*module.inputs, *module.parameters)]
    function = relax.Function(ordered, main.body, main.ret_ty, main.is_pure, main.attrs)
    return tvm.IRModule({**module.module.functions, variable: function}, attrs=module.module.attrs)
