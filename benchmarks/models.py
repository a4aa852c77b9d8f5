"""The networks that benchmarks measure, and how they are compiled: `compile_model` without passes, as a user would."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.harness import REPOSITORY, data_file
from effc.errors import MissingDependencyError
from effc.runtime import Session, TensorSpec, load

__all__ = [
    "DIGITS",
    "FLOAT_MODELS",
    "INT8_MODELS",
    "TORCHVISION",
    "Arrays",
    "compiled",
    "module_from",
    "onnxruntime_reference",
    "random_inputs",
    "torchvision_model",
]

Arrays = dict[str, np.ndarray[Any, Any]]

DIGITS = REPOSITORY / "examples" / "digits.onnx"
FLOAT_MODELS = ("mnist_cntk", "mlperf_tiny_resnet8_cifar10", "mlperf_tiny_vww96_float", "ultraface_rfb320")
INT8_MODELS = (
    "mlperf_tiny_ad_autoencoder_int8qdq",
    "mlperf_tiny_kws_int8qdq",
    "mlperf_tiny_resnet8_int8qdq",
    "mlperf_tiny_vww_int8qdq",
)
TORCHVISION = ("resnet18", "resnet50", "mobilenet_v2", "vgg16", "vit_b_16")


def compiled(source: Any, folder: Path, *, threads: int | None = None, **settings: Any) -> Session:
    """The network as an artifact in `folder`, ready to run."""
    from effc.compiler import compile_model

    compile_model(source, folder, **settings)
    return load(folder, threads=threads)


def random_inputs(inputs: tuple[TensorSpec, ...], seed: int = 0) -> Arrays:
    """Standard normal inputs (integers: 0 to 99) at the artifact's batch."""
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else generator.integers(0, 100, spec.shape).astype(spec.dtype)
        for spec in inputs
    }


def onnxruntime_reference(path: Path) -> Callable[[Arrays], Arrays]:
    """What a file computes as it is written: onnxruntime without optimisations, outputs by name."""
    from effc.frontends.onnx.onnxruntime import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def torchvision_model(name: str) -> Any:
    """A torchvision classifier with random weights (seed 0), in eval mode. Raises MissingDependencyError."""
    import torch

    from effc.ir.torch_compat import import_torchvision

    try:
        models = import_torchvision().models
    except ImportError as error:
        raise MissingDependencyError(f"torchvision does not work here: {error}; pip install 'effc[vision]'") from error
    torch.manual_seed(0)  # torchvision's initialisers take no generator
    network = getattr(models, name)(weights=None).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # a head of zeros (ViT's) would make every output zero, and any compiler right
                torch.nn.init.normal_(parameter, std=0.02)
    return network


def module_from(name: str) -> ModuleType | None:
    """A Python file of the data folder as a module; None where it is missing."""
    path = data_file(name)
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
