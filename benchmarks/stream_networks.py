"""The networks of `benchmarks.stream`, all with trained weights, for frames of 240 x 320.

    ultraface   UltraFace RFB-320: a face detector, as it was published
    mobilenet   MobileNetV1 0.25 of MLPerf Tiny (visual wake words, trained at 96 x 96) up to its last feature map
    resnet20    ResNet-20 (CIFAR-10, trained at 32 x 32) up to its last feature map

The last two are backbones: their heads pool a size that they were trained for, so what they are judged by is their last feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import SIZE, Frames
from benchmarks.dense_networks import CIFAR, write_onnx
from benchmarks.harness import data_file
from benchmarks.models import module_from
from effc.errors import DataError

__all__ = ["NETWORKS", "StreamNetwork"]

_ULTRAFACE, _MOBILENET = "onnx/ultraface_rfb320.onnx", "onnx/mlperf_tiny_vww96_float.onnx"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # that ResNet-20 was trained with


@dataclass(frozen=True)
class StreamNetwork:
    """One network.

    Attributes:
        name: in tables.
        needs: files of the data folder.
        write: makes the ONNX file: one float32 input (1, 3, 240, 320).
        prepared: frames of 0 to 255 as the network takes them.
        detects: whether its outputs are detections.
    """

    name: str
    needs: tuple[str, ...]
    write: Callable[[Path], None]
    prepared: Callable[[Frames], Frames]
    detects: bool = False

    def missing(self) -> str:
        """Why it cannot be measured here; empty where it can."""
        absent = [name for name in self.needs if data_file(name) is None]
        return f"$EFFC_DATA/{absent[0]} is missing" if absent else ""


def _file(name: str) -> Path:
    path = data_file(name)
    if path is None:
        raise DataError(f"$EFFC_DATA/{name} is missing")
    return path


def _ultraface(path: Path) -> None:
    write_onnx(_file(_ULTRAFACE), path, (), 1, (), ())


def _mobilenet(path: Path) -> None:
    """Everything in front of the pooling of the head, for another size."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(_file(_MOBILENET))
    graph = model.graph
    pools = [index for index, node in enumerate(graph.node) if node.op_type == "AveragePool"]
    if len(pools) != 1:
        raise DataError(f"{_MOBILENET} has {len(pools)} average pools; its backbone ends in front of the one of its head")
    last = graph.node[pools[0]].input[0]
    del graph.node[pools[0] :]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.output[:] = ["features" if name == last else name for name in node.output]
        node.input[:] = ["features" if name == last else name for name in node.input]
    (given,) = (entry for entry in graph.input if entry.name not in used - {entry.name for entry in graph.input})
    for axis, size in enumerate((1, 3, *SIZE)):
        given.type.tensor_type.shape.dim[axis].dim_value = size
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)


def _resnet20(path: Path) -> None:
    import torch

    module = module_from(CIFAR[0])
    if module is None:
        raise DataError(f"$EFFC_DATA/{CIFAR[0]} is missing")
    network = module.load(_file(CIFAR[1]), 20)

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            one = self.network
            return one.layer3(one.layer2(one.layer1(torch.relu(one.bn1(one.conv1(x))))))

    write_onnx(Backbone().eval(), path, (torch.zeros(1, 3, *SIZE),), 1, ("x",), ("features",))


def _standardised(frames: Frames) -> Frames:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (_MEAN, _STD))
    return (frames / np.float32(255) - mean) / std


NETWORKS = (
    StreamNetwork("ultraface", (_ULTRAFACE,), _ultraface, lambda frames: (frames - np.float32(127)) / np.float32(128), detects=True),
    StreamNetwork("mobilenet", (_MOBILENET,), _mobilenet, lambda frames: frames / np.float32(255)),
    StreamNetwork("resnet20", CIFAR, _resnet20, _standardised),
)
