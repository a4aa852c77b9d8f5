"""What passes make of programs, as C for a microcontroller: bounds, thresholds, top-k, pruned channels, streams. Names can do no harm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.compiler import CompileResult, compile_model
from effc.compiler.golden import run_program
from effc.runtime.verify import compare
from tests.unit.compiler.c_library import SANITIZED, CLibrary, make, needs_board, needs_compiler

pytestmark = needs_compiler
OPS = torch.ops.effc


class Convolutions(nn.Module):
    """A stem, a block with a skip, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.wide = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 7, 3, 2)
        self.head = nn.Linear(7 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.deep(x) + x)
        result: Tensor = self.head(functional.relu(self.wide(x)).flatten(1))
        return result


class Bounded(Convolutions):
    """Bounds of a layer, of channels and of every neuron, in both modes; noise is often out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("layer", torch.tensor(0.4))
        self.register_buffer("channels", torch.linspace(0.1, 0.6, 6).reshape(6, 1, 1))
        self.register_buffer("neurons", torch.rand(7, 3, 3))
        self.register_buffer("lower", -0.2 * torch.rand(7, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = OPS.bound(functional.relu(self.stem(x)), None, self.channels, "zero")
        x = OPS.bound(functional.relu(self.deep(x) + x), None, self.layer, "clamp")
        result: Tensor = self.head(OPS.bound(self.wide(x), self.lower, self.neurons, "zero").flatten(1))
        return result


class Sparse(nn.Module):
    """Thresholds by magnitude and by value, the largest few of a row, the statistical largest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.register_buffer("thresholds", torch.rand(24))
        self.register_buffer("low", torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = OPS.sparsify(self.first(x), self.thresholds, "magnitude")
        x = OPS.keep_top_k(OPS.sparsify(self.second(x), self.low, "value"), 7)
        result: Tensor = self.last(OPS.statistical_top_k(self.second(x), 0.5, "hard"))
        return result


def compiled(module: nn.Module, shape: tuple[int, ...], folder: Path, **settings: Any) -> CompileResult:
    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    return compile_model(module.eval(), folder / "out", example_inputs=(example,), target="cortex-m4", **settings)


def noise(result: CompileResult, count: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    generator = np.random.default_rng(5)
    return [{spec.name: generator.standard_normal(spec.shape, np.float32) for spec in result.manifest.inputs} for _ in range(count)]


@pytest.mark.parametrize(("kind", "shape"), [(Bounded, (2, 8, 8)), (Sparse, (12,))])
def test_every_op_of_a_pass_computes_in_c_what_it_computes_in_torch(kind: type[nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = compiled(kind(), shape, tmp_path)
    library = CLibrary(result, tmp_path)
    for sample in noise(result, 8):
        found = compare(library.run(sample), run_program(result.program, sample))
        assert found.worst < 2e-6
    make(result.path / "c", "test", f"CFLAGS={SANITIZED}")


def test_a_bound_stops_what_is_too_large(tmp_path: Path) -> None:
    """Ranger's bounds come from data; a value far out of them changes the outputs no more than the bounds let it."""
    torch.manual_seed(0)
    data = np.random.default_rng(0).standard_normal((40, 2, 8, 8)).astype(np.float32)
    result = compiled(Convolutions(), (2, 8, 8), tmp_path, passes="ranger", data=data)
    assert any(node.target is OPS.bound.default for node in result.program.nodes)
    library = CLibrary(result, tmp_path)
    (sample,) = noise(result, 1)
    (name,) = sample
    sample[name][0, 0, 3, 3] = 1e30
    sample[name][0, 1, 5, 5] = np.nan
    expected = run_program(result.program, sample)
    assert all(np.abs(array).max() < 100 for array in expected.values())
    assert compare(library.run(sample), expected).worst < 2e-6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    torch.manual_seed(0)
    return compiled(Convolutions(), (2, 8, 8), tmp_path_factory.mktemp("whole"))


def test_pruned_channels_need_less_of_everything(whole: CompileResult, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = compiled(Convolutions(), (2, 8, 8), tmp_path, passes="prune{sparsity=0.5,per=channel}")
    assert whole.manifest.plan is not None
    assert pruned.manifest.plan is not None
    assert pruned.manifest.plan.arena_bytes < whole.manifest.plan.arena_bytes
    assert pruned.manifest.plan.parameter_bytes < 0.7 * whole.manifest.plan.parameter_bytes
    library = CLibrary(pruned, tmp_path)
    for sample in noise(pruned, 3):
        assert compare(library.run(sample), run_program(pruned.program, sample)).worst < 2e-6


def test_a_stream_has_more_code_and_its_memory_in_states(whole: CompileResult, streamed: CompileResult) -> None:
    plain, stream = whole.manifest.plan, streamed.manifest.plan
    assert plain is not None and stream is not None
    assert stream.arena_bytes < plain.arena_bytes < stream.state_bytes and plain.state_bytes == 0
    assert stream.state_bytes > plain.arena_bytes - stream.arena_bytes
    assert len(stream.fresh) > 0
    sizes = [sum(one.size for one in plan.in_room("parameter")) for plan in (plain, stream)]
    assert sizes[0] <= sizes[1] < 1.1 * sizes[0]  # the weights stand there once


def frames(count: int) -> np.ndarray[Any, Any]:
    """A square that moves over a still background."""
    generator = np.random.default_rng(2)
    made = np.repeat(generator.standard_normal((1, 2, 8, 8)).astype(np.float32), count, 0)
    for t in range(count):
        made[t, :, 2:4, t % 6 : t % 6 + 2] = 2
    return made


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    torch.manual_seed(0)
    return compiled(Convolutions(), (2, 8, 8), tmp_path_factory.mktemp("stream"), passes="delta{dense=never}", data=frames(8))


def test_a_stream_keeps_its_states_where_the_caller_says(streamed: CompileResult, tmp_path: Path) -> None:
    """Two streams in turn are each what the whole clip gives in torch; `init` begins again."""
    result = streamed
    one = CLibrary(result, tmp_path)
    other = CLibrary(result, tmp_path, like=one)
    assert one.plan.state_bytes > 0
    clip = frames(9)
    (name,) = (spec.name for spec in result.manifest.frame_inputs)
    expected = run_program(result.program, {name: clip})
    for t in range(9):
        for library, frame in ((one, t), (other, 8 - t)):
            library.arena[:] = 0xFF  # between calls it may serve something else
            got = library.run({name: clip[frame : frame + 1]})
            if library is one:
                assert compare(got, {key: array[t : t + 1] for key, array in expected.items()}).worst < 2e-6
    one.init()
    assert compare(one.run({name: clip[:1]}), {key: array[:1] for key, array in expected.items()}).worst < 2e-6
    make(result.path / "c", "test", f"CFLAGS={SANITIZED}")


class Turned(nn.Module):
    """Its two transpositions become one, so that nothing can be computed only where it moved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 5, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x)).transpose(2, 3)))


def test_a_stream_that_computes_every_frame_whole_hands_its_states_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = frames(6)
    result = compiled(Turned(), (2, 8, 8), tmp_path, passes="delta{mode=truncate,threshold=0.3,dense=never}", data=clip)
    library = CLibrary(result, tmp_path)
    assert library.plan.state_bytes == 0
    assert not library.plan.fresh
    interface = result.program.interface
    (name,) = (spec.name for spec in result.manifest.frame_inputs)
    expected = run_program(result.program, {name: clip})
    values = {value.name: value for value in interface.inputs}
    header = next((result.path / "c").glob("effc_*.h")).read_text()
    assert header.count("A state: ") == len(interface.states) > 0
    states = {one.input: np.zeros(values[one.input].at_batch(1), values[one.input].dtype) for one in interface.states}
    for t in range(len(clip)):
        outputs = library.run({name: clip[t : t + 1], **states})
        states = {one.input: outputs[one.output] for one in interface.states}
        given = {key: array[t : t + 1] for key, array in expected.items()}
        assert compare({key: outputs[key] for key in given}, given).worst < 2e-6
    make(result.path / "c", "test", f"CFLAGS={SANITIZED}")


@needs_board
def test_a_board_computes_the_same_stream(streamed: CompileResult) -> None:
    make(streamed.path / "c", "qemu", "CFLAGS=-O2 -Werror")


def test_every_flipped_bit_of_a_weight_is_found(whole: CompileResult, tmp_path: Path) -> None:
    result = whole
    library = CLibrary(result, tmp_path)
    assert library.check_weights() == 0
    plan = result.manifest.plan
    assert plan is not None
    weights = result.program.tensors
    head = next(array for name, array in weights.items() if tuple(array.shape) == (5, 63))
    block = next(i for i, one in enumerate(plan.in_room("parameter")) if one.size == head.numel() * 4)
    content = (result.path / "c" / f"{library.name}_weights.c").read_text()
    assert f"/* Block {block}: " in content
    stored = _stored(content, block)
    raw = stored.tobytes()
    for bit in (0, 1234, 8 * len(raw) - 1):
        wrong = bytearray(raw)
        wrong[bit // 8] ^= 1 << bit % 8
        (tmp_path / str(bit)).mkdir()
        assert CLibrary(result, tmp_path / str(bit), damage=(raw, bytes(wrong))).check_weights() == 1 + block


def _stored(text: str, block: int) -> np.ndarray[Any, Any]:
    """The numbers of a block of float32, read from its C."""
    body = re.search(rf"_w{block}\[\d+\] = \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    return np.array([float(number) for number in re.findall(r"[-+.\de]+(?=f)", body[1])], np.float32)


HOSTILE = {
    "x": 'int"); system("true"); //',
    "a": "*/ #error no",
    "b": "line\nbreak\\",
    "c": "w" * 10_000,
    "d": "重み ??/",
    "y": "return",
    "z": "Return",
    "model": "while '*' \"*/\" $(false)",
}


def named(names: dict[str, str], folder: Path) -> Path:
    """relu(conv(x)) and its sum with itself, under any names."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.standard_normal((3, 2, 3, 3)).astype(np.float32), names["a"])]
    weights.append(numpy_helper.from_array(generator.standard_normal(3).astype(np.float32), names["b"]))
    nodes = [
        helper.make_node("Conv", [names["x"], names["a"], names["b"]], [names["c"]], name=names["c"]),
        helper.make_node("Relu", [names["c"]], [names["y"]], name=names["d"]),
        helper.make_node("Add", [names["y"], names["c"]], [names["z"]], name=names["a"]),
    ]
    value = helper.make_tensor_value_info
    outputs = [value(names[one], TensorProto.FLOAT, [1, 3, 4, 4]) for one in ("y", "z")]
    graph = helper.make_graph(nodes, names["model"], [value(names["x"], TensorProto.FLOAT, [1, 2, 6, 6])], outputs, weights)
    path = folder / f"{names['model'].replace('/', '')}.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def code(artifact: Path) -> dict[str, str]:
    """The C without comments, and with every name of the user's as its place among them."""
    found = {}
    for path in sorted((artifact / "c").glob("*.[ch]")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        (prefix,) = {one.name.removesuffix("_weights.c") for one in (artifact / "c").glob("*_weights.c")}
        text = text.replace(prefix, "MODEL").replace(prefix.upper(), "MODEL")
        words = dict.fromkeys(re.findall(r"\b(?:in|out)_\w+|\bMODEL_(?:IN|OUT)_\w+", text))
        for number, word in enumerate(words):
            text = re.sub(rf"\b{word}\b", f"NAME{number}", text)
        found[path.name.replace(prefix, "MODEL")] = re.sub(r'"effc [^"]*"', "VERSION", text)
    return found


def test_names_are_names_and_nothing_else(tmp_path: Path) -> None:
    made = {}
    for kind, names in (("plain", {key: key for key in HOSTILE}), ("hostile", HOSTILE)):
        (tmp_path / kind).mkdir()
        result = compile_model(named(names, tmp_path / kind), tmp_path / kind / "out", target="cortex-m4")
        make(result.path / "c", "test", f"CFLAGS={SANITIZED}")
        made[kind] = code(result.path)
    assert made["hostile"] == made["plain"]
