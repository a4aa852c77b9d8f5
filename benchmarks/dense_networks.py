"""The networks of `dense_cpu`: where each comes from, what one sample looks like, and the file that its peers run.

Batch norms of untrained networks get statistics of their own activations and scales that are not one: folding them then changes every
weight, and no layer's output fades or overflows. Same seed, same network, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import data_file
from benchmarks.models import INT8_MODELS, TORCHVISION, module_from, torchvision_model
from effc.errors import DataError

__all__ = ["NETWORKS", "OPSET", "Network", "write_onnx"]

TOKENS = 128  # of MiniLM's samples
CIFAR = ("cifar10/resnet_cifar.py", "cifar10/resnet20-12fca82f.th")
OPSET = 20  # the first with a Gelu operator; Attention (23) makes onnxruntime's CPU kernels no faster
_CALIBRATION = 8  # random images that batch norms take their statistics from


@dataclass(frozen=True)
class Network:
    """One network to measure.

    Attributes:
        name: in tables and on the command line.
        group: `dense` networks have the claims; `int8` and `avx2` rows stand in tables of their own.
        build: makes the torch module; None for a network that is a file.
        file: the ONNX file in the data folder; empty for a module.
        needs: other files of the data folder.
        shape, dtype: of one call's input, without the batch; of a module only.
        convolutional: is measured at larger batches, too.
        target: what effc compiles for.
    """

    name: str
    group: Literal["dense", "int8", "avx2"] = "dense"
    build: Callable[[], Any] | None = None
    file: str = ""
    needs: tuple[str, ...] = ()
    shape: tuple[int, ...] = (3, 224, 224)
    dtype: Literal["float32", "int64"] = "float32"
    convolutional: bool = True
    target: str = "cpu"

    def missing(self) -> str:
        """Why the network cannot be measured here; empty where it can."""
        absent = [name for name in (self.file, *self.needs) if name and data_file(name) is None]
        return f"$EFFC_DATA/{absent[0]} is missing" if absent else ""

    def source(self) -> Any:
        """The module, or the path of the file. Raises DataError where files are missing."""
        if self.build is not None:
            return self.build()
        path = data_file(self.file)
        if path is None:
            raise DataError(self.missing())
        return path

    def example(self, batch: int) -> tuple[Any, ...]:
        """The tensors of one call of the module."""
        import torch

        generator = torch.Generator().manual_seed(1)
        shape = (batch, *self.shape)
        if self.dtype == "int64":
            return (torch.randint(0, 100, shape, generator=generator),)
        return (torch.randn(shape, generator=generator),)


def write_onnx(source: Any, path: Path, examples: Sequence[Any], batch: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """The file for the peers: fixed sizes, nothing among the graph's inputs that is a constant, constants folded.

    Args:
        source: a module, or the path of an ONNX file.
        path: the file to write.
        examples: the tensors of one call of the module, at the batch.
        batch: samples of one call.
        inputs, outputs: names, for a module.
    """
    import onnx

    if isinstance(source, Path):
        onnx.save(_at_batch(onnx.load(source), batch), path)
        return
    import torch

    names = {"input_names": list(inputs), "output_names": list(outputs)}
    program = torch.onnx.export(source, tuple(examples), dynamo=True, opset_version=OPSET, verbose=False, optimize=True, **names)
    assert program is not None
    program.save(path)


def _at_batch(model: Any, batch: int) -> Any:
    """An ONNX model with another leading size of all inputs and outputs, and without initialisers among its inputs."""
    constants = {initializer.name for initializer in model.graph.initializer}
    kept = [entry for entry in model.graph.input if entry.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    del model.graph.value_info[:]  # they hold the old sizes
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        if dimension.dim_value not in (0, 1):
            raise DataError(f"{value.name} has {dimension.dim_value} samples in the file; a batch of {batch} is made from 1")
        dimension.dim_value = batch
    return model


def _torchvision(name: str) -> Callable[[], Any]:
    return lambda: _with_statistics(torchvision_model(name))


def _with_statistics(network: Any) -> Any:
    """Batch norms with random scales and shifts, and the mean and variance of what reaches them."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return network
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0.0, 0.2, generator=generator)
            norm.momentum = None  # the average over all calls: of one, its own statistics
            norm.train()
        network(torch.randn(_CALIBRATION, 3, 224, 224, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def _resnet20() -> Any:
    source, weights = module_from(CIFAR[0]), data_file(CIFAR[1])
    if source is None or weights is None:
        raise DataError(f"one of {', '.join(CIFAR)} is missing in $EFFC_DATA")
    return source.load(weights, 20)


def _minilm() -> Any:
    from benchmarks.minilm import minilm

    return minilm()


def _networks() -> list[Network]:
    vision = [Network(name, build=_torchvision(name), convolutional=name != "vit_b_16") for name in TORCHVISION]
    return [
        *vision,
        Network("minilm", build=_minilm, shape=(TOKENS,), dtype="int64", convolutional=False),
        Network("resnet20", build=_resnet20, needs=CIFAR, shape=(3, 32, 32)),
        Network("resnet8", file="onnx/mlperf_tiny_resnet8_cifar10.onnx"),
        Network("ultraface", file="onnx/ultraface_rfb320.onnx"),
        *(Network(name, "int8", file=f"onnx/{name}.onnx") for name in INT8_MODELS),
        Network("resnet18_avx2", "avx2", build=_torchvision("resnet18"), target="x86-64-v3"),
    ]


NETWORKS = {network.name: network for network in _networks()}
