"""An artifact's C on a Cortex-M board of QEMU: its outputs on any inputs, the instructions of a call and of its kernels, the stack it used.

QEMU counts instructions, not cycles: under `-icount shift=6` each takes 64 ns of the board's time, whatever it is. The counts are the same
in every run. They say nothing of flash wait states, of caches, or of how long a multiplication takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.embedded_build import STRICT, Files, Machine, ToolError, command
from effc.lowering.c99.printer import HELPERS, c_type
from effc.runtime.manifest import TensorSpec
from effc.runtime.tensors import Array, dtype_named

__all__ = ["Probe", "probe"]

HERE = Path(__file__).resolve().parent
TICKS = 1.6  # of 40 ns, that an instruction takes
PAINTED = 64 << 10  # bytes of stack that are watched

_MAIN = """\
#include <stdio.h>

#include "{name}.h"
#include "embedded_start.h"

static unsigned char arena[{macros}_ARENA_BYTES + 1] __attribute__((aligned(64)));
{arrays}

static int32_t __attribute__((noinline)) watched(uint32_t *used, uint32_t *took) {{
  volatile unsigned char *top, *low;
  uint32_t before;
  int32_t status;
  __asm volatile("mov %0, sp" : "=r"(top));
  for (low = top - {painted}; low < top; ++low) {{
    *low = 0xA5;
  }}
  call_count = 0;
  before = ticks();
  status = {name}_run(arena, {arguments});
  *took = ticks() - before;
  for (low = top - {painted}; low < top && *low == 0xA5; ++low) {{
  }}
  *used = (uint32_t)(top - low);
  return status;
}}

int main(void) {{
  FILE *from = fopen("inputs.bin", "rb"), *to = fopen("outputs.bin", "wb"), *report = fopen("report.txt", "w");
  uint32_t used = 0, took = 0, call;
  if (!from || !to || !report || {name}_init(arena, sizeof arena) != 0 || {name}_check_weights() != 0) {{
    return 3;
  }}
  while ({reads}) {{
    if (watched(&used, &took) != 0) {{
      return 4;
    }}
{writes}
  }}
  fprintf(report, "%lu %lu\\n", (unsigned long)used, (unsigned long)took);
  for (call = 0; call < call_count; ++call) {{
    fprintf(report, "%lx %lu\\n", (unsigned long)calls[call].function, (unsigned long)calls[call].ticks);
  }}
  return fclose(from) || fclose(to) || fclose(report) ? 5 : 0;
}}
"""


@dataclass(frozen=True)
class Probe:
    """What calls did.

    Attributes:
        outputs: of each sample, by name.
        instructions: of the last call.
        stack: bytes of stack that the last call used.
        kernels: functions that the entry called, in order, and the instructions of each; empty where they were not watched.
    """

    outputs: tuple[dict[str, Array], ...]
    instructions: int
    stack: int
    kernels: tuple[tuple[str, int], ...]


def probe(
    files: Files,
    machine: Machine,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    samples: Sequence[Mapping[str, Array]],
    folder: Path,
    *,
    watch: bool = False,
) -> Probe:
    """Run samples one after the other.

    Args:
        files: the artifact's C.
        machine: one with a board.
        inputs, outputs: of a call.
        samples: inputs by name, of the shapes and types of `inputs`.
        folder: for what is built.
        watch: whether kernels are counted one by one; each then takes some thirty instructions more.

    Raises:
        ToolError: it does not build, or ends with another exit code than 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.c").write_text(_main(files, inputs, outputs))
    blob = b"".join(np.ascontiguousarray(sample[spec.name], dtype_named(spec.dtype)).tobytes() for sample in samples for spec in inputs)
    (folder / "inputs.bin").write_bytes(blob)
    instrument = ("-finstrument-functions", f"-finstrument-functions-exclude-function-list={','.join(HELPERS)}") if watch else ()
    objects = [folder / "code.o", folder / "weights.o"]
    include = (f"-I{files.folder}", f"-I{HERE}")
    for source, made in zip(files.code(), objects, strict=True):
        command([machine.compiler, *STRICT, "-O2", *machine.flags, *include, *instrument, "-c", source, "-o", made], folder)
    link = ("-nostartfiles", "--specs=rdimon.specs", "-T", HERE / "embedded_board.ld")
    sources = (folder / "main.c", HERE / "embedded_start.c")
    command([machine.compiler, "-O2", *machine.flags, *include, *sources, *objects, *link, "-o", "probe.elf"], folder)
    quiet = ("-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native", "-icount", "shift=6")
    command(["qemu-system-arm", "-M", machine.board, *quiet, "-kernel", "probe.elf"], folder)
    first, *rest = (line.split() for line in (folder / "report.txt").read_text().splitlines())
    names = _functions(machine, folder) if rest else {}
    kernels = tuple((names.get(int(address, 16) & ~1, address), round(int(count) / TICKS)) for address, count in rest)
    return Probe(
        _outputs((folder / "outputs.bin").read_bytes(), outputs, len(samples)), round(int(first[1]) / TICKS), int(first[0]), kernels
    )


def _main(files: Files, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    specs = [(f"in{i}", spec) for i, spec in enumerate(inputs)] + [(f"out{i}", spec) for i, spec in enumerate(outputs)]
    arrays = [f"static {c_type(spec.dtype)} {name}[{math.prod(spec.shape)}];" for name, spec in specs]
    reads = [f"fread({name}, sizeof {name}, 1, from) == 1" for name, _ in specs[: len(inputs)]]
    writes = [f"    fwrite({name}, sizeof {name}, 1, to);" for name, _ in specs[len(inputs) :]]
    return _MAIN.format(
        name=files.name,
        macros=files.macros,
        painted=PAINTED,
        arrays="\n".join(arrays),
        arguments=", ".join(name for name, _ in specs),
        reads=" && ".join(reads),
        writes="\n".join(writes),
    )


def _functions(machine: Machine, folder: Path) -> dict[int, str]:
    """Names by address."""
    lines = (line.split() for line in command([machine.tool("nm"), "probe.elf"], folder).splitlines())
    return {int(words[0], 16) & ~1: words[2] for words in lines if len(words) == 3 and words[1] in "tT"}


def _outputs(content: bytes, outputs: Sequence[TensorSpec], samples: int) -> tuple[dict[str, Array], ...]:
    size = sum(math.prod(spec.shape) * dtype_named(spec.dtype).itemsize for spec in outputs)
    if len(content) != size * samples:
        raise ToolError(f"the program wrote {len(content)} bytes for {samples} samples, not {size * samples}")
    found, place = [], 0
    for _ in range(samples):
        sample = {}
        for spec in outputs:
            count, dtype = math.prod(spec.shape), dtype_named(spec.dtype)
            sample[spec.name] = np.frombuffer(content, dtype, count, place).reshape(spec.shape)
            place += count * dtype.itemsize
        found.append(sample)
    return tuple(found)
