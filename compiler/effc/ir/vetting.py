"""What must hold of a `.pt2` archive before torch may load it.

`torch.export.load` runs code that a doctored archive carries, in more ways than pickle: pickled weights and objects, sample inputs that
fall back to unrestricted unpickling, sizes that sympy evaluates as Python, names that are pasted into generated Python, guards that are
compiled, call targets that are looked up anywhere in torch, and tree specs that import modules. Each is checked here against an
allow-list, on the bytes that are loaded afterwards and through the reader that loads them.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from effc.errors import InputRejectedError, LimitError, Problem
from effc.ir.ops import NAMESPACE
from effc.ir.torch_compat import Pt2Records

__all__ = ["vet_archive"]

_FIXED = frozenset(("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"))
_ALLOWED = re.compile(
    r"models/model\.json|data/(weights|constants)/model_\1_config\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/sample_inputs/model\.pt|extra/[\w.-]+"
)
_TARGET = re.compile(rf"torch\.ops\.(aten|{NAMESPACE})\.(\w+)\.(\w+)")
_PLAIN_TARGETS = frozenset(
    [f"_operator.{name}" for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "eq", "ne")]
    + [f"_operator.{name}" for name in ("lt", "le", "gt", "ge", "and_", "or_", "not_", "pos")]
    + [f"torch.sym_{name}" for name in ("max", "min", "not", "int", "float", "ite", "sum", "sqrt", "constrain_range_for_size")]
    + [f"math.{name}" for name in ("ceil", "floor", "trunc")]
)
_TREES = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None))
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"[^\"'\\\x00-\x1f\x7f{}]*")
_REFUSED_KEYS = frozenset(("as_operator", "as_custom_obj", "as_graph", "custom_obj", "token", "as_opaque_object"))
_SYMPY = frozenset(
    (
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "floor", "ceiling", "Equality"),
        *("Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "Not", "And", "Or", "Eq", "Ne", "Ge", "Le"),
        *("Gt", "Lt", "Piecewise", "ExprCondPair", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt"),
        *("FloorToInt", "CeilDiv", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat", "Identity"),
    )
)
_GUARD_CALLS = frozenset(("size", "dim", "stride", "storage_offset", "numel"))


def vet_archive(data: bytes, name: str, max_bytes: int, max_elements: int) -> None:
    """Refuse an archive that could do anything on loading but make a program.

    Args:
        data: the archive's bytes.
        name: what messages call it.
        max_bytes, max_elements: bounds on the archive and on each tensor that it declares.

    Raises:
        InputRejectedError: it is no `.pt2`, broken, or doctored; everything found is listed.
        LimitError: it is over a bound.
    """
    if len(data) > max_bytes:
        raise LimitError(f"{name} has {len(data)} bytes, over the limit of {max_bytes}; raise it with --limit model_bytes={len(data)}")
    try:
        records = Pt2Records(data)
    except ValueError as error:
        raise InputRejectedError(f"{name} is not a .pt2 archive, or it is truncated: {error}") from error
    problems = [Problem(entry, "entry", "is not part of an exported program") for entry in _strangers(records)]
    if records.compressed or not records.agreed:
        problems.append(Problem(name, "archive", "is compressed or has hidden entries, which torch never writes"))
    if problems:
        raise InputRejectedError(f"{name} is refused before loading: it holds more than an exported program", problems)
    try:
        problems = [*_model_problems(records), *_payload_problems(records, max_elements), *_sample_problems(records)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise InputRejectedError(f"{name} is malformed: {type(error).__name__}: {str(error).splitlines()[:1]}") from error
    if problems:
        raise InputRejectedError(f"{name} is refused before loading: it could run code or exhaust memory", problems[:20])


def _strangers(records: Pt2Records) -> list[str]:
    return [name for name in records.names if name not in _FIXED and not _ALLOWED.fullmatch(name)]


# ---- tensors -------------------------------------------------------------------------------------------------------------------


def _payload_problems(records: Pt2Records, max_elements: int) -> Iterator[Problem]:
    for kind in ("weights", "constants"):
        config = json.loads(records.read(f"data/{kind}/model_{kind}_config.json"))["config"]
        for tensor, entry in config.items():
            path = f"data/{kind}/{entry['path_name']}"
            if entry["use_pickle"]:
                yield Problem(tensor, path, "is pickled, and reading a pickle can run code", "save plain dense tensors")
                continue
            if path not in records.names:
                yield Problem(tensor, path, "is missing from the archive")
                continue
            sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
            elements = math.prod(sizes)
            if any(type(size) is not int or size < 0 for size in sizes) or elements > max_elements:
                yield Problem(tensor, f"shape {sizes}", f"is over the limit of {max_elements} elements", "raise --limit tensor_elements")
            elif records.size(path) == 0 and elements:
                yield Problem(tensor, f"shape {sizes}", "has no data behind it")


def _sample_problems(records: Pt2Records) -> Iterator[Problem]:
    name = "data/sample_inputs/model.pt"
    data = records.read(name) if name in records.names else b""
    if not data:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                yield Problem("sample inputs", name, "are compressed, which torch never writes")
                return
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        why = next((line for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), type(error).__name__)
        yield Problem("sample inputs", name, f"hold more than tensors: reading them could run code ({why.strip()})")


# ---- the graph -----------------------------------------------------------------------------------------------------------------


def _model_problems(records: Pt2Records) -> Iterator[Problem]:
    model = json.loads(records.read("models/model.json"))
    yield from _walk(model, "model")
    for guard in model.get("guards_code") or ():
        if not _is_harmless(guard, guard_only=True):
            yield Problem("guards", repr(guard)[:120], "is no plain comparison of sizes")
    graph = model["graph_module"]
    if graph.get("treespec_namedtuple_fields"):
        yield Problem("inputs", "named tuples", "would be made from code", "export with tuples, lists or dicts")
    for node in graph["graph"]["nodes"]:
        if not _is_operator(node["target"]):
            yield Problem(str(node.get("name") or node["target"])[:80], str(node["target"])[:120], "is no ATen or effc operator")


def _is_operator(target: Any) -> bool:
    if target in _PLAIN_TARGETS:
        return True
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        return False
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    return isinstance(packet, torch._ops.OpOverloadPacket) and match[3] in packet.overloads()  # type: ignore[no-untyped-call]


def _walk(value: Any, key: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        by_user = key.endswith("_values")  # then keys are the graph's value names, whatever they are
        for name, inner in value.items():
            if by_user and not _is_name(name):
                yield Problem(key, repr(name)[:120], "is no plain name")
            if not by_user and name in _REFUSED_KEYS and inner not in (None, False):
                yield Problem(key, name, "carries an object or a function")
            if key == "custom_obj_values":
                yield Problem(key, repr(name)[:120], "is an object of its own")
            if by_user or name != "metadata":  # notes; only read as text
                yield from _walk(inner, "" if by_user else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, key)
    elif isinstance(value, str):
        why = _string_problem(key, value)
        if why:
            yield Problem(key, repr(value)[:120], why)


def _string_problem(key: str, value: str) -> str:
    """Why a string may not stand under this key, empty where it may."""
    if key in ("name", "as_name", "class_fqn", "forward_arg_names", "user_input_name") and not _is_name(value):
        return "is no plain name"
    if key in ("parameter_name", "buffer_name", "tensor_constant_name", "fqn") and not _PATH.fullmatch(value):
        return "has characters that no parameter's name has"
    if key == "expr_str" and not _is_harmless(value, guard_only=False):
        return "is no plain arithmetic of sizes"
    if key in ("in_spec", "out_spec") and not _is_plain_tree(json.loads(value)):
        return "holds more than tuples, lists and dicts"
    return ""


def _is_name(value: str) -> bool:
    return bool(_NAME.fullmatch(value)) and not keyword.iskeyword(value)


def _is_plain_tree(spec: Any) -> bool:
    protocol, tree = spec
    return protocol == 1 and _is_plain_node(tree)


def _is_plain_node(tree: Any) -> bool:
    if not isinstance(tree, dict) or tree.get("type", "") not in _TREES:
        return False
    context = tree.get("context")
    keys = json.loads(context) if isinstance(context, str) else context
    plain_context = keys is None or (isinstance(keys, list) and all(isinstance(key, str | int) for key in keys))
    return plain_context and all(_is_plain_node(child) for child in tree["children_spec"])


def _is_harmless(text: str, *, guard_only: bool) -> bool:
    """Whether an expression is arithmetic on sizes and nothing else (both kinds are evaluated as Python by torch)."""
    if not isinstance(text, str) or len(text) > 20_000:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError):
        return False
    return all(_is_harmless_node(node, guard_only) for node in ast.walk(tree))


def _is_harmless_node(node: ast.AST, guard_only: bool) -> bool:
    if isinstance(node, ast.Constant):
        small = isinstance(node.value, int | float) and abs(node.value) < 1 << 64
        return small or (isinstance(node.value, str) and _NAME.fullmatch(node.value) is not None)
    if isinstance(node, ast.Attribute):
        return guard_only and node.attr in _GUARD_CALLS
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return guard_only and node.func.attr in _GUARD_CALLS
        if not isinstance(node.func, ast.Name):
            return False
        raised = node.args[1:] if node.func.id == "Pow" else ()
        return node.func.id in _SYMPY and all(_is_small_power(power) for power in raised)
    if isinstance(node, ast.Name):
        return bool(re.fullmatch(r"[a-z]{1,2}\d+|L|oo|int_oo|true|false", node.id)) or node.id in _SYMPY
    if isinstance(node, ast.Pow):
        return False
    plain = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.keyword, ast.Load, ast.operator, ast.unaryop, ast.boolop)
    return isinstance(node, (*plain, ast.cmpop)) or (guard_only and isinstance(node, ast.Subscript | ast.Index))


def _is_small_power(power: ast.expr) -> bool:
    text = ast.unparse(power)
    return bool(re.fullmatch(r"Integer\(-?\d\)", text))
