"""The networks of `benchmarks.embedded`: four of MLPerf Tiny, two of them also as int8, and the digits network of the examples.

`with_integer_ends` cuts an int8 network's float ends off, so that its inputs and outputs are the integers themselves. What a network of
integers computes is defined to the bit; a softmax in float32 behind it is not. All integers inside can be outputs, too: the few at the end
hide most of what a layer does wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import data_file
from benchmarks.models import DIGITS
from effc.runtime import TensorSpec

__all__ = ["NETWORKS", "Network", "Published", "parameter_bytes", "with_integer_ends"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Published:
    """What another tool needs for the network: kB of 1,000 bytes. `docs/embedded.md` has the sources.

    Attributes:
        tool: its name and version.
        ram: for activations; for whole programs, everything over an empty project.
        flash: of code and weights; None where it was not published.
        whole: whether the numbers are of whole programs.
    """

    tool: str
    ram: float
    flash: float | None
    whole: bool = False


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: in tables.
        file: of the data folder; empty for the digits network.
        low, high: inputs are drawn evenly from here.
        arena: the most bytes of arena that it may take; None without a bar.
        published: what others need.
        integers: whether it is quantised to int8.
    """

    name: str
    file: str
    low: float
    high: float
    arena: int | None = None
    published: tuple[Published, ...] = ()
    integers: bool = False

    def path(self) -> Path | None:
        """Where it is; None where it is missing."""
        return data_file(self.file) if self.file else DIGITS

    def samples(self, inputs: Sequence[TensorSpec], count: int) -> list[dict[str, Array]]:
        """Inputs of `count` calls; integers are drawn evenly from all that the type has."""
        generator = np.random.default_rng(1)

        def drawn(spec: TensorSpec) -> Array:
            dtype = np.dtype(spec.dtype)
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                return generator.integers(limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True)
            return generator.uniform(self.low, self.high, spec.shape).astype(dtype)

        return [{spec.name: drawn(spec) for spec in inputs} for _ in range(count)]


NETWORKS = (
    Network("digits", "", 0, 1),
    Network(
        "ResNet-8 float",
        "onnx/mlperf_tiny_resnet8_cifar10.onnx",
        0,
        255,
        arena=140_000,
        published=(
            Published("TensorFlow Lite Micro", 200.1, 445.7, whole=True),
            Published("Edge Impulse EON", 200.4, 385.1, whole=True),
        ),
    ),
    Network("visual wake words float", "onnx/mlperf_tiny_vww96_float.onnx", -1, 1),
    Network(
        "ResNet-8 int8",
        "onnx/mlperf_tiny_resnet8_int8qdq.onnx",
        0,
        255,
        arena=54_528,
        published=(
            Published("ONNC with CMSIS-NN", 54.528, None),
            Published("X-CUBE-AI 9.0", 56.672, None),
            Published("X-CUBE-AI 7.3", 64.944, 124.240),
            Published("microTVM with CMSIS-NN", 66.112, None),
            Published("TensorFlow Lite Micro", 58.1, 228.0, whole=True),
            Published("Edge Impulse EON", 65.9, 175.5, whole=True),
        ),
        integers=True,
    ),
    Network(
        "keywords int8",
        "onnx/mlperf_tiny_kws_int8qdq.onnx",
        -128,
        122,
        arena=17_232,
        published=(
            Published("microTVM with CMSIS-NN", 17.232, None),
            Published("ONNC with CMSIS-NN", 18.794, None),
            Published("X-CUBE-AI 9.0", 22.272, None),
            Published("X-CUBE-AI 10.2", 28.572, 68.750),
            Published("TensorFlow Lite Micro", 27.1, 182.0, whole=True),
            Published("Edge Impulse EON", 30.8, 120.1, whole=True),
        ),
        integers=True,
    ),
    Network(
        "visual wake words int8",
        "onnx/mlperf_tiny_vww_int8qdq.onnx",
        -1.8,
        2.27,
        arena=58_624,
        published=(
            Published("X-CUBE-AI 9.0", 58.624, None),
            Published("ONNC with CMSIS-NN", 59.148, None),
            Published("microTVM with CMSIS-NN", 64.800, None),
            Published("X-CUBE-AI 7.3", 73.820, 290.596),
        ),
        integers=True,
    ),
)


def parameter_bytes(path: Path) -> int:
    """Bytes of all stored tensors of an ONNX file, as they are in it."""
    import onnx

    return sum(onnx.numpy_helper.to_array(one).nbytes for one in onnx.load(path).graph.initializer)


def with_integer_ends(source: Path, target: Path, *, inside: bool = False) -> None:
    """Write the part of a quantised network between its first QuantizeLinear and its last one: integers go in and come out.

    Args:
        source: the network.
        target: the file to write.
        inside: whether what every QuantizeLinear between them gives is an output, too.
    """
    import onnx
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    first, *others = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    part = Extractor(model).extract_model([first], others if inside else others[-1:])
    onnx.save(part, target)
