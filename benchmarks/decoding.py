"""Engines that decode token by token: each feeds the caches that a step returned to its next step.

An engine is a function of a token and its position that gives the logits of the next token. All of them run `llama.Step`: effc its compiled
form, torch the module itself, onnxruntime its export. Caches never leave an engine, and none copies them: effc and onnxruntime write into a
second set of buffers, which then changes places with the first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import data_file
from benchmarks.llama import Sizes, Step, Weights, random_weights, start
from benchmarks.stories import FILE, read
from effc.ir import Program
from effc.runtime import Stream, load

__all__ = ["BEGIN", "NETWORKS", "WIDE", "Array", "Decode", "effc_engine", "greedy", "onnxruntime_engine", "program_engine", "torch_engine"]

Array = np.ndarray[Any, Any]
Decode = Callable[[int, int], Array]

BEGIN = 1  # the token before every text
_POSITIONS = 256
WIDE = Sizes(width=2048, hidden=5632, layers=4, heads=32, key_heads=4, vocabulary=512, positions=_POSITIONS)


def _stories() -> Weights | None:
    path = data_file(FILE)
    return None if path is None else read(path, _POSITIONS)


# Each gives None where its file is missing. `wide` has the layers of TinyLlama-1.1B, four of them.
NETWORKS: dict[str, Callable[[], Weights | None]] = {"stories260K": _stories, "wide": lambda: random_weights(WIDE)}


def greedy(decode: Decode, count: int) -> list[int]:
    """The likeliest token at each of the first `count` positions of a text, each after those before it."""
    tokens = [BEGIN]
    for position in range(count):
        tokens.append(int(decode(tokens[-1], position).argmax()))
    return tokens[1:]


def effc_engine(artifact: Path, threads: int) -> Decode:
    """An artifact of a `Step`."""
    stream = Stream(load(artifact, threads=threads))

    def decode(token: int, position: int) -> Array:
        frame = {"tokens": np.array([[token]]), "position": np.array([position])}
        logits: Array = stream.run(frame)["logits"][0]
        return logits

    return decode


def torch_engine(weights: Weights) -> Decode:
    """The module in eager torch, with the threads that torch was given."""
    import torch

    module = Step(weights).eval()
    caches = start(weights.sizes)[2:]

    def decode(token: int, position: int) -> Array:
        nonlocal caches
        with torch.inference_mode():
            results = module(torch.tensor([[token]]), torch.tensor([position]), *caches)
        logits, *kept = results.values()
        caches = tuple(kept)
        array: Array = logits[0].numpy()
        return array

    return decode


def program_engine(program: Program) -> Decode:
    """A program of a `Step` in torch, operator by operator: what its compiled form is held against."""
    import torch

    states = [torch.zeros(value.at_batch(1)) for value in program.interface.inputs[2:]]

    def decode(token: int, position: int) -> Array:
        nonlocal states
        with torch.inference_mode():
            logits, *states = program.call(torch.tensor([[token]]), torch.tensor([position]), *states)
        array: Array = logits[0].numpy()
        return array

    return decode


def onnxruntime_engine(model: Path, threads: int) -> Decode:
    """An ONNX file of a `Step` with a fixed batch of 1, at onnxruntime's best: all optimisations, and everything bound to memory once."""
    from effc.frontends.onnx.onnxruntime import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    value_of = onnxruntime.OrtValue.ortvalue_from_numpy  # shares the array's memory
    shapes = {value.name: value.shape for value in session.get_inputs()}
    caches = [name for name in shapes if name.startswith("caches_")]
    tokens, place = np.zeros(shapes["tokens"], np.int64), np.zeros(shapes["position"], np.int64)
    logits = np.zeros(session.get_outputs()[0].shape, np.float32)
    shared = {"tokens": value_of(tokens), "position": value_of(place)}
    sets = [{name: value_of(np.zeros(shapes[name], np.float32)) for name in caches} for _ in range(2)]
    bindings = []
    for old, new in (sets, sets[::-1]):
        binding = session.io_binding()
        for name, value in (shared | old).items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("logits", value_of(logits))
        for name, value in new.items():
            binding.bind_ortvalue_output(f"{name}_next", value)
        bindings.append(binding)

    def decode(token: int, position: int) -> Array:
        tokens[0, 0], place[0] = token, position
        session.run_with_iobinding(bindings[0])
        bindings.reverse()
        first: Array = logits[0]
        return first

    return decode
