"""Programs as bytes: deterministic, complete, and refused where reading them could run code."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from effc.errors import InputRejectedError, LimitError
from effc.frontends import load_program
from effc.ir import Facts, Program, ValueFacts, source_of
from effc.ir.storage import load_program_bytes, save_program


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.effc.bound(self.norm(self.conv(x)), torch.tensor(0.0), torch.tensor(1.0), "clamp")


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    loaded = load_program(Small(), example_inputs=(torch.randn(1, 1, 5, 5),))
    first = loaded.nodes[0].name
    return loaded.with_facts(Facts({first: ValueFacts(-1.0, 2.0, 0.5, 10)})).with_pass("fold-constants")


def test_the_same_program_gives_the_same_bytes_and_comes_back_whole(program: Program) -> None:
    data = save_program(program)
    assert save_program(program) == data
    again = load_program_bytes(data)
    assert save_program(again) == data
    assert (again.interface, again.provenance, again.facts) == (program.interface, program.provenance, program.facts)
    assert again.tensor_names == program.tensor_names
    assert [source_of(node) for node in again.nodes] == [source_of(node) for node in program.nodes]
    x = {"x": torch.randn(3, 1, 5, 5)}
    assert torch.equal(again.run(x)["output"], program.run(x)["output"])


def test_no_path_and_no_source_line_is_in_the_bytes(program: Program) -> None:
    data = save_program(program)
    for leak in (b"stack_trace", b".py", b"site-packages", os.fsencode(Path.home()), b"from_node"):
        assert leak not in data


def test_marks_that_torch_leaves_while_it_retraces_are_not_saved(program: Program) -> None:
    """The first retrace of a process leaves some in dictionaries that the program shares with its copies."""
    data = save_program(program)
    marked = copy.copy(program.nodes[0].meta["custom"])
    program.nodes[0].meta["custom"]["_torchdynamo_disable"] = True
    try:
        assert save_program(program) == data
    finally:
        program.nodes[0].meta["custom"] = marked


def test_saving_leaves_the_program_as_it_was(program: Program) -> None:
    before = [dict(node.meta) for node in program.graph.nodes]
    save_program(program)
    assert [dict(node.meta).keys() for node in program.graph.nodes] == [meta.keys() for meta in before]


# ---- doctored archives -----------------------------------------------------------------------------------------------------------


def doctored(data: bytes, changes: dict[str, Callable[[bytes], bytes]], extra: dict[str, bytes] | None = None) -> bytes:
    """The archive with entries rewritten or added, in the form that torch writes (stored, 64-byte aligned)."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.set_min_version(6)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.namelist():
            name = entry.split("/", 1)[1]
            if name.startswith(".data/") or name == "byteorder":
                continue
            content = archive.read(entry)
            changed = changes.get(name, lambda same: same)(content)
            writer.write_record(name, changed, len(changed))
    for name, content in (extra or {}).items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()


class Payload:
    """Pickled, it makes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.target}",))


def pickled(target: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(target), buffer)
    return buffer.getvalue()


def edit_model(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def rewrite(content: bytes) -> bytes:
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return rewrite


MODEL, WEIGHTS, SAMPLES = "models/model.json", "data/weights/model_weights_config.json", "data/sample_inputs/model.pt"


def test_the_attack_works_on_plain_torch(program: Program, tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing: torch 2.13 falls back to unrestricted unpickling."""
    target = tmp_path / "owned"
    logging.disable()
    try:
        torch.export.load(io.BytesIO(doctored(save_program(program), {SAMPLES: lambda _: pickled(target)})))
    except Exception:  # noqa: BLE001 - what torch makes of the result does not matter: the code has run
        pass
    finally:
        logging.disable(logging.NOTSET)
    assert target.exists()


def test_sample_inputs_that_would_run_code_are_refused_before_they_do(program: Program, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    data = doctored(save_program(program), {SAMPLES: lambda _: pickled(target)})
    path = tmp_path / "m.pt2"
    path.write_bytes(data)
    for load in (lambda: load_program_bytes(data), lambda: load_program(path)):
        with pytest.raises(InputRejectedError, match="sample inputs") as caught:
            load()
        assert caught.value.exit_code == 4
    assert not target.exists()


def test_pickled_weights_are_refused(program: Program, tmp_path: Path) -> None:
    target = tmp_path / "owned"

    def use_pickle(content: bytes) -> bytes:
        config = json.loads(content)
        config["config"]["conv.weight"]["use_pickle"] = True
        return json.dumps(config).encode()

    data = doctored(save_program(program), {WEIGHTS: use_pickle, "data/weights/weight_0": lambda _: pickled(target)})
    with pytest.raises(InputRejectedError, match=r"conv\.weight.*pickle"):
        load_program_bytes(data)
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["data/weights/model.pt", "data/constants/opaque_obj_0", "data/aotinductor/m/m.so", "data/constants/custom_obj_0"]
)
def test_entries_that_are_no_part_of_a_program_are_refused(program: Program, tmp_path: Path, name: str) -> None:
    data = doctored(save_program(program), {}, {name: pickled(tmp_path / "owned")})
    with pytest.raises(InputRejectedError, match="holds more than an exported program"):
        load_program_bytes(data)
    assert not (tmp_path / "owned").exists()


def _target(model: Any, code: str) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _size(model: Any, code: str) -> None:
    sizes = model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = code


def _size_of_a_value_called_metadata(model: Any, code: str) -> None:
    """Notes are not looked into; a value may be called as they are."""
    values = model["graph_module"]["graph"]["tensor_values"]
    values["metadata"] = copy.deepcopy(values["x"])
    values["metadata"]["sizes"][0]["as_expr"]["expr_str"] = code


def _guard(model: Any, code: str) -> None:
    model["guards_code"] = [f"{code} == 0"]


def _name(model: Any, code: str) -> None:
    node = model["graph_module"]["graph"]["nodes"][0]
    node["name"] = f"x; {code}"


def _parameter(model: Any, code: str) -> None:
    spec = model["graph_module"]["signature"]["input_specs"][0]
    spec["parameter"]["parameter_name"] = f'x"), {code}, ("'


def _tree(model: Any, code: str) -> None:
    spec = [1, {"type": "collections.defaultdict", "context": json.dumps(["os", "system", []]), "children_spec": []}]
    model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)


def _enum(model: Any, code: str) -> None:
    context = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "y"}])
    spec = [1, {"type": "builtins.dict", "context": context, "children_spec": []}]
    model["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)


@pytest.mark.parametrize("attack", [_target, _size, _size_of_a_value_called_metadata, _guard, _name, _parameter, _tree, _enum])
def test_text_that_torch_would_evaluate_is_refused(program: Program, tmp_path: Path, attack: Callable[[Any, str], None]) -> None:
    target = tmp_path / "owned"
    code = f"__import__('os').system('touch {target}')"
    data = doctored(save_program(program), {MODEL: edit_model(lambda model: attack(model, code))})
    with pytest.raises(InputRejectedError, match="could run code"):
        load_program_bytes(data)
    assert not target.exists()


def test_a_tensor_that_no_data_back_is_refused_before_it_is_allocated(program: Program) -> None:
    def grow(content: bytes) -> bytes:
        config = json.loads(content)
        meta = config["config"]["conv.weight"]["tensor_meta"]
        meta["sizes"][0]["as_int"] = 1 << 28
        return json.dumps(config).encode()

    data = doctored(save_program(program), {WEIGHTS: grow, "data/weights/weight_0": lambda _: b""})
    with pytest.raises(InputRejectedError, match=r"limit of|no data"):
        load_program_bytes(data)


def test_truncated_and_foreign_bytes_are_refused(program: Program) -> None:
    data = save_program(program)
    for broken in (b"", b"PK\x05\x06" + bytes(18), data[:-200], data[: len(data) // 2], b"\x80\x04" + data):
        with pytest.raises(InputRejectedError):
            load_program_bytes(broken)
    with pytest.raises(LimitError, match="--limit model_bytes"):
        load_program_bytes(data, max_bytes=100)


def test_a_changed_interface_is_refused(program: Program) -> None:
    wrong = replace(program.interface, inputs=())
    data = doctored(save_program(program), {"extra/effc.json": edit_model(lambda model: model.update(interface=wrong.as_json()))})
    with pytest.raises(InputRejectedError, match="no well-formed program"):
        load_program_bytes(data)
    data = doctored(save_program(program), {"extra/effc.json": lambda _: b"[" * 5000})
    with pytest.raises(InputRejectedError):
        load_program_bytes(data)


def test_compressed_archives_are_refused(program: Program) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(save_program(program))) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(InputRejectedError, match="compressed"):
        load_program_bytes(buffer.getvalue())


def test_inputs_may_be_called_like_the_format_s_own_fields() -> None:
    class Named(torch.nn.Module):
        def forward(self, metadata: torch.Tensor, token: torch.Tensor, custom_obj: torch.Tensor) -> torch.Tensor:
            return metadata + token * custom_obj

    given = load_program(Named(), example_inputs=tuple(torch.ones(1, 2) for _ in range(3)))
    again = load_program_bytes(save_program(given))
    assert [value.name for value in again.interface.inputs] == ["metadata", "token", "custom_obj"]
