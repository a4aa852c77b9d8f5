"""The networks that benchmarks measure, and how they are compiled: `compile_model` without passes, as a user would."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.harness import REPOSITORY, data_file
from effc.errors import MissingDependencyError
from effc.runtime import Session, TensorSpec, load

__all__ = ["DIGITS", "FLOAT_MODELS", "INT8_MODELS", "TORCHVISION", "compiled", "module_from", "random_inputs", "torchvision_model"]

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


def random_inputs(inputs: tuple[TensorSpec, ...], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Standard normal inputs (integers: 0 to 99) at the artifact's batch."""
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else generator.integers(0, 100, spec.shape).astype(spec.dtype)
        for spec in inputs
    }


def torchvision_model(name: str) -> Any:
    """A torchvision classifier with random weights (seed 0), in eval mode. Raises MissingDependencyError."""
    import torch

    models = _torchvision_models()
    torch.manual_seed(0)  # torchvision's initialisers take no generator
    return getattr(models, name)(weights=None).eval()


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


def _torchvision_models() -> ModuleType:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    try:
        if importlib.util.find_spec("torchvision") is None:
            raise MissingDependencyError("torchvision is not installed: pip install 'effc[vision]'")
        for operator in ("nms", "qnms"):
            # A torchvision wheel of another index than torch's cannot load its C++ operators. Detectors need them; classifiers do not,
            # but the import fails unless the operators are declared.
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"torchvision does not work here: {error}; pip install 'effc[vision]'") from error
    finally:
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # the declarations last as long as the object
