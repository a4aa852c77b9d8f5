"""onnxruntime as another reader of an ONNX file: without its optimisations, so that it computes what the file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effc.frontends.onnx.agreement import Agreement, agreement, rounds
from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.loader import LoadedModel, load_model
from effc.frontends.onnx.onnxruntime import import_onnxruntime
from effc.frontends.onnx.signature import Input, input_signature
from effc.frontends.onnx.steps import output_steps
from effc.ir import BATCH, Interface

__all__ = ["CannotRunError", "Reference", "open_reference"]

Array = np.ndarray[Any, Any]

_MOST_BYTES = 2**31 - 1  # a protobuf message holds no more


class CannotRunError(Exception):
    """onnxruntime cannot run the file: a newer opset, an operator that it lacks. The message is its reason."""


class Reference:
    """A session of a loaded model.

    Attributes:
        name: `onnxruntime` and its version.

    Raises:
        CannotRunError: onnxruntime does not take the file.
    """

    def __init__(self, model: LoadedModel, inputs: Sequence[Input]) -> None:
        onnxruntime = import_onnxruntime()
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._inputs = list(inputs)
        self._rounds, self._steps = rounds(model.proto.graph), output_steps(model.proto.graph)
        self._outputs = [value.name for value in model.proto.graph.output]
        if model.proto.ByteSize() > _MOST_BYTES:
            raise CannotRunError("the model is too large to be handed over in memory")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:
            raise CannotRunError(_first_line(error)) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call at the file's own sizes. Raises CannotRunError."""
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            raise CannotRunError(_first_line(error)) from error
        return {name: np.asarray(array) for name, array in zip(self._outputs, results, strict=True)}

    def run_samples(self, feeds: Mapping[str, Array], interface: Interface) -> dict[str, Array]:
        """Any number of samples of a program with a symbolic batch, in calls of the file's own batch. Raises CannotRunError."""
        carriers = [value.name for value in interface.inputs if BATCH in value.shape]
        if not carriers:
            return self.run(feeds)
        own = next(value.shape[0] for value in self._inputs if value.name == carriers[0])
        count = len(feeds[carriers[0]])
        calls = []
        for start in range(0, count, own):
            rows = np.minimum(np.arange(start, start + own), count - 1)  # the last call is filled up with copies
            calls.append(self.run({name: array[rows] if name in carriers else array for name, array in feeds.items()}))
        joined = {}
        for value in interface.outputs:
            parts = [call[value.name] for call in calls]
            axis = value.shape.index(BATCH) if BATCH in value.shape else None
            joined[value.name] = parts[0] if axis is None else np.concatenate(parts, axis).take(range(count), axis)
        return joined

    def judge(self, got: Mapping[str, Array], want: Mapping[str, Array]) -> list[Agreement]:
        """Outputs of another reader beside this one's."""
        return agreement(got, want, self._rounds, self._steps)


def open_reference(path: Path, input_shapes: Mapping[str, Sequence[int]] | None, limits: Limits) -> Reference:
    """The reference of a file. Raises CannotRunError, and whatever reading the file raises."""
    model = load_model(path, limits)
    return Reference(model, input_signature(model.proto.graph, input_shapes))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
