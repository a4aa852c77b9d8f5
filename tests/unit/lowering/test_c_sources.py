"""The folder of C99: it builds without warnings, under sanitizers, tests itself, finds damage, and does not say where it was made."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effc.compiler.c_build import build_here, run_here
from effc.compiler.c_vectors import golden_calls
from effc.compiler.golden import golden_inputs
from effc.errors import VerificationError
from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower
from effc.lowering.c99 import template
from effc.lowering.c99.sources import GoldenCall, c_sources
from effc.targets import find_target
from tests.unit.lowering.streams import streaming

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
STRICT = ["-O1", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def program_of(net: nn.Module, *inputs: torch.Tensor) -> Program:
    return Program.from_exported(torch.export.export(net.eval(), inputs), Provenance("net", "torch", "0"), batch=Batch(False))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(2, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(torch.relu(self.conv(x)).mean((2, 3))), -1)


@pytest.fixture(scope="module")
def small() -> tuple[Lowered, list[GoldenCall]]:
    program = program_of(Small(), torch.zeros(1, 2, 6, 7))
    lowered = lower(program, find_target("c99"))
    return lowered, golden_calls(program, golden_inputs(program, None, 0), lowered)


def sources_of(program: Program, golden: dict[str, np.ndarray] | None = None, **options: Any) -> dict[str, bytes]:
    lowered = lower(program, find_target("c99"))
    calls = golden_calls(program, golden or golden_inputs(program, None, 0), lowered)
    return c_sources("net", lowered, calls, find_target("c99"), "effc", **options)


def text_of(sources: dict[str, bytes], name: str) -> str:
    return sources[name].decode("ascii")


@needs_compiler
def test_it_passes_under_sanitizers_and_fails_with_wrong_outputs(small: tuple[Lowered, list[GoldenCall]]) -> None:
    lowered, calls = small
    sources = c_sources("net", lowered, calls, find_target("c99"), "effc")
    assert sorted(sources) == [
        "CMakeLists.txt",
        "Makefile",
        "effc_net.c",
        "effc_net.h",
        "effc_net_weights.c",
        "test_main.c",
        "test_vectors.h",
    ]
    run_here(sources, STRICT)
    (name,) = calls[-1].outputs
    off = [*calls[:-1], GoldenCall(calls[-1].inputs, {name: calls[-1].outputs[name] + np.float32([0, 0, 2e-4])})]
    with pytest.raises(VerificationError, match="status 1: an output is not the program's"):
        run_here(c_sources("net", lowered, off, find_target("c99"), "effc"))


@needs_compiler
def test_damaged_weights_are_found_by_their_block(small: tuple[Lowered, list[GoldenCall]], tmp_path: Path) -> None:
    lowered, calls = small
    assert lowered.plan is not None
    sources = c_sources("net", lowered, calls, find_target("c99"), "effc")
    check = b'#include "effc_net.h"\nint main(void) { return (int)effc_net_check_weights(); }\n'
    program = build_here({**sources, "test_main.c": check}, tmp_path, ["gcc"], ["-O2", "-Werror"])
    assert subprocess.run([str(program)]).returncode == 0
    whole = program.read_bytes()
    for block, buffer in enumerate(lowered.plan.in_room("parameter")):
        raw = lowered.parameters[buffer.name].tobytes()
        assert whole.count(raw) == 1
        flipped = bytearray(whole)
        flipped[whole.index(raw) + len(raw) - 1] ^= 0x40
        program.unlink()
        program.write_bytes(flipped)
        program.chmod(0o755)
        assert subprocess.run([str(program)]).returncode == 1 + block


@needs_compiler
def test_the_model_needs_no_heap_no_output_and_no_mathematics(small: tuple[Lowered, list[GoldenCall]], tmp_path: Path) -> None:
    sources = c_sources("net", *small, find_target("c99"), "effc")
    build_here(sources, tmp_path, ["gcc"], ["-O2", "-Werror"])
    subprocess.run(["gcc", "-std=c99", "-O2", "-fno-pic", "-c", "effc_net.c", "effc_net_weights.c"], cwd=tmp_path, check=True)
    listed = subprocess.run(["nm", "effc_net.o", "effc_net_weights.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    symbols = [(words[-2], words[-1]) for line in listed.splitlines() if len(words := line.split()) >= 2 and not line.endswith(":")]
    wanted = {name for kind, name in symbols if kind == "U"} - {name for kind, name in symbols if kind != "U"}
    assert wanted <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    shared = {name for kind, name in symbols if kind.isupper() and kind != "U"}
    assert all(name.startswith("effc_net_") for name in shared)
    assert not [name for kind, name in symbols if kind in "BbDdCc"]  # nothing that can be written


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_header_is_for_cpp_too_and_init_says_what_is_wrong(small: tuple[Lowered, list[GoldenCall]], tmp_path: Path) -> None:
    sources = c_sources("net", *small, find_target("c99"), "effc 1, model 0")
    build_here(sources, tmp_path, ["gcc"], ["-O0"])
    (tmp_path / "use.cpp").write_text(
        '#include "effc_net.h"\n#include <cstring>\nalignas(8) static unsigned char arena[EFFC_NET_ARENA_BYTES + 8];\nint main() {\n'
        "  float x[EFFC_NET_IN_X_ELEMENTS] = {}, y[3];\n"
        "  if (effc_net_init(arena, EFFC_NET_ARENA_BYTES - 1) != EFFC_NET_TOO_SMALL) return 1;\n"
        "  if (effc_net_init(arena + 4, EFFC_NET_ARENA_BYTES) != EFFC_NET_MISALIGNED) return 2;\n"
        "  if (effc_net_init(NULL, EFFC_NET_ARENA_BYTES) != EFFC_NET_NULL) return 3;\n"
        "  if (effc_net_init(arena, sizeof arena) != EFFC_NET_OK) return 4;\n"
        "  if (effc_net_run(arena, x, NULL) != EFFC_NET_NULL || effc_net_run(arena, x, y) != EFFC_NET_OK) return 5;\n"
        '  return std::strcmp(effc_net_version(), "effc 1, model 0") ? 6 : 0;\n}\n'
    )
    subprocess.run(["gcc", "-std=c99", "-c", "effc_net.c", "effc_net_weights.c"], cwd=tmp_path, check=True)
    objects = ["effc_net.o", "effc_net_weights.o"]
    subprocess.run(["g++", "-Wall", "-Wextra", "-Werror", "-pedantic", "use.cpp", *objects, "-o", "use"], cwd=tmp_path, check=True)
    assert subprocess.run([str(tmp_path / "use")]).returncode == 0


def test_the_same_program_gives_the_same_bytes_and_no_path_or_date() -> None:
    first = sources_of(program_of(Small(), torch.zeros(1, 2, 6, 7)))
    assert sources_of(program_of(Small(), torch.zeros(1, 2, 6, 7))) == first
    text = b"\n".join(first.values()).decode("ascii")
    assert not re.search(r"/tmp|/home|\b20\d\d-\d\d|__DATE__|__TIME__|@[A-Z]+@", text)
    assert str(Path.cwd()) not in text


def test_a_name_that_looks_like_a_place_in_a_template_is_not_filled(small: tuple[Lowered, list[GoldenCall]]) -> None:
    templates = (Path(template.__file__).parent / "templates").iterdir()
    markers = sorted({found for path in templates for found in re.findall(r"@[A-Z_]+@", path.read_text())})
    assert "@INCLUDES@" in markers
    plain = c_sources("net", *small, find_target("cortex-m4"), "effc")
    for start in range(0, len(markers), 4):  # a comment holds a hundred letters
        name = " ".join(markers[start : start + 4])
        sources = c_sources(name, *small, find_target("cortex-m4"), "effc")
        for (own, content), other in zip(sources.items(), plain.values(), strict=True):
            assert bare(content) == bare(other)
            assert own.startswith("qemu/") or name in text_of(sources, own)


HOSTILE = [
    "*/ int y; #error /*",
    "int\n#error \\\n",
    '??/" ; return 1; //',
    "x" * 10_000,
    "@INCLUDES@ @ROWS@ INFINITY memcpy",
]  # a name each


@needs_compiler
def test_hostile_names_change_comments_and_identifiers_only() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.arange(5.0))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * self.scale + y, x > y

    program = program_of(Two(), torch.zeros(1, 5), torch.zeros(1, 5))
    lowered = lower(program, find_target("c99"))
    assert lowered.plan is not None
    calls = golden_calls(program, golden_inputs(program, None, 0), lowered)
    plain = c_sources("net", lowered, calls, find_target("c99"), "effc")
    names = dict(zip([*calls[0].inputs, *calls[0].outputs, *lowered.parameters], HOSTILE, strict=True))
    data = lowered.plan.as_json()
    for buffer in data["buffers"]:
        buffer["name"] = names.get(buffer["name"], buffer["name"])
    for step in data["steps"]:
        for side in ("reads", "writes"):
            step[side] = [names.get(name, name) for name in step[side]]
    parameters = {names[name]: array for name, array in lowered.parameters.items()}
    evil = dataclasses.replace(lowered, plan=type(lowered.plan).from_json(data), parameters=parameters)
    renamed = [
        GoldenCall(*({names[name]: array for name, array in side.items()} for side in (call.inputs, call.outputs))) for call in calls
    ]
    sources = c_sources("net\n*/ #error \"'`$(touch x)", evil, renamed, find_target("c99"), 'effc " */ \\')
    run_here(sources, STRICT)
    for name, content in plain.items():
        other = sources[name.replace("effc_net", next(one for one in sources if one.endswith(".h") and one != "test_vectors.h")[:-2])]
        assert bare(content) == bare(other), name


def bare(content: bytes) -> str:
    """C without comments, its names and strings all alike."""
    text = re.sub(r"/\*.*?\*/|#   .*|^# .*$", "", content.decode("ascii"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r'"[^"\n]*"', '"s"', text)
    return re.sub(r"\s+", " ", re.sub(r"\b[A-Za-z_]\w*\b", "n", text))


class Kinds(nn.Module):
    """Inputs and outputs of several types."""

    def forward(self, x: torch.Tensor, n: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        picked = torch.where(b, x, -x)
        return picked, x.argmax(1), n * 3, (n > 4) & b, n.to(torch.int8)


@needs_compiler
def test_inputs_and_outputs_of_several_types() -> None:
    inputs = torch.randn(1, 6), torch.arange(6, dtype=torch.int32)[None], torch.tensor([[True, False, True, True, False, False]])
    program = program_of(Kinds(), *inputs)
    golden = {value.name: array.numpy() for value, array in zip(program.interface.inputs, inputs, strict=True)}
    sources = sources_of(program, golden)
    header = text_of(sources, "effc_net.h")
    assert re.search(r"_run\(void \*arena, const float \*in_x, const int32_t \*in_n, const bool \*in_b, float \*\w+, int64_t \*", header)
    run_here(sources, STRICT)


@needs_compiler
def test_a_stream_runs_its_first_frames_with_the_states_of_the_caller() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    clip = np.repeat(np.random.default_rng(0).standard_normal((1, 1, 8, 8), np.float32), 5, 0)
    for frame in range(1, 5):
        clip[frame:, :, frame : frame + 2, 2:4] += 1
    program = streaming(net, clip)
    sources = sources_of(program, {program.interface.frame_inputs[0].name: clip})
    assert "EFFC_CALLS = 5" in text_of(sources, "test_vectors.h")
    assert re.search(r"_run\(void \*arena, effc_net_states \*states, const float \*\w+, float \*\w+\);", text_of(sources, "effc_net.h"))
    run_here(sources, STRICT)


class Step(nn.Module):
    """A running sum: its state is the caller's."""

    def forward(self, x: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = total + x
        return torch.relu(new), new


@needs_compiler
def test_states_of_the_user_are_inputs_and_outputs() -> None:
    program = program_of(Step(), torch.zeros(1, 4), torch.zeros(1, 4))
    names = [value.name for value in program.interface.outputs]
    sources = sources_of(program, states=[("total", names[1])])
    assert f"what out_{names[1]} got is what in_total is in the next call" in text_of(sources, "effc_net.h")
    run_here(sources, STRICT)
