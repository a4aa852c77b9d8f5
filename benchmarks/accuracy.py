"""How near the compiled networks are to their sources: onnxruntime without optimisations for ONNX files, eager torch for modules.

Per network: the largest absolute difference over all outputs, divided by the output's largest magnitude, for random inputs. On real
images: on how many the compiled ResNet-20 chooses another class than eager torch. `of zeros` and `one class` are what a program that
computes nothing would reach.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.models import (
    DIGITS,
    FLOAT_MODELS,
    INT8_MODELS,
    TORCHVISION,
    Arrays,
    compiled,
    module_from,
    onnxruntime_reference,
    random_inputs,
    torchvision_model,
)
from effc.errors import MissingDependencyError
from effc.frontends.onnx.steps import Step, in_steps, output_steps
from effc.runtime import Session
from effc.runtime.verify import TOLERANCE, compare

__all__ = ["measure"]

SAMPLES = 3  # random inputs per network
INT8_SAMPLES = 16  # of the small int8 ones
CIFAR = ("cifar10/resnet_cifar.py", "cifar10/resnet20-12fca82f.th", "cifar10/cifar10_test1017.npz")


def measure(options: Options) -> Outcome:
    """All float networks against their sources, ResNet-20 on CIFAR-10, and the symbolic batches of the ONNX files."""
    outcome = Outcome()
    names = FLOAT_MODELS[1:2] if options.quick else FLOAT_MODELS
    onnx_files = {"digits": DIGITS} | {name: data_file(f"onnx/{name}.onnx") for name in names}
    for name, path in onnx_files.items():
        if path is None:
            outcome.skip(name, f"$EFFC_DATA/onnx/{name}.onnx is missing")
        else:
            _network(outcome, name, path, "onnxruntime", partial(onnxruntime_reference, path), options)
    for name in () if options.quick else TORCHVISION:
        try:
            module = torchvision_model(name)
        except MissingDependencyError as error:
            outcome.skip(name, str(error))
            continue
        _network(outcome, name, module, "eager torch", partial(_eager, module), options)
        gc.collect()
    for name in INT8_MODELS[:1] if options.quick else INT8_MODELS:
        path = data_file(f"onnx/{name}.onnx")
        if path is None:
            outcome.skip(name, f"$EFFC_DATA/onnx/{name}.onnx is missing")
        else:
            _integer_network(outcome, name, path, options)
    _cifar(outcome, options)
    _symbolic_batches(outcome, options)
    return outcome


def _network(
    outcome: Outcome, name: str, source: Any, reference: str, make_reference: Callable[[], Callable[[Arrays], Arrays]], options: Options
) -> None:
    settings: dict[str, Any] = {}
    if not isinstance(source, Path):
        import torch

        settings["example_inputs"] = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),)
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = compiled(source, Path(folder, "artifact"), threads=options.threads, **settings)
            errors, zeros = _errors(session, make_reference())
            executor = session.manifest.executor
    except Exception as error:  # noqa: BLE001 - a network that crashes effc is a missed claim, and the others are still measured
        outcome.rows.append({"model": name, "reference": reference, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        errors = [float("nan")]
    else:
        row = {"model": name, "reference": reference, "relative error": max(errors), "of zeros": min(zeros), "samples": len(errors)}
        outcome.rows.append(row | {"executor": executor})
        if min(zeros) < 0.5:  # a reference that is nothing but zeros is no evidence
            errors = [float("nan")]
    outcome.claims.append(Claim(f"{name}: relative error against {reference}", max(errors), TOLERANCE, "at most"))


def _errors(session: Session, reference: Callable[[Arrays], Arrays]) -> tuple[list[float], list[float]]:
    """Per random input: the compiled network's error, and that of answering zeros."""
    errors, zeros = [], []
    for seed in range(SAMPLES):
        inputs = random_inputs(session.inputs, seed)
        expected = reference(inputs)
        errors.append(compare(session.run(inputs), expected).worst)
        zeros.append(compare({name: np.zeros_like(array) for name, array in expected.items()}, expected).worst)
    return errors, zeros


def _integer_network(outcome: Outcome, name: str, path: Path, options: Options) -> None:
    """An int8 network in units of its output step: the scale of its last quantiser."""
    import onnx

    (step,) = output_steps(onnx.load(path).graph).values()
    reference = onnxruntime_reference(path)
    worst, zeros, other = 0.0, np.inf, 0
    with tempfile.TemporaryDirectory() as folder:
        session = compiled(path, Path(folder, "artifact"), threads=options.threads)
        for seed in range(INT8_SAMPLES):
            inputs = random_inputs(session.inputs, seed)
            (want,) = reference(inputs).values()
            (got,) = session.run(inputs).values()
            worst = max(worst, _worst_step(got, want, step))
            zeros = min(zeros, _worst_step(np.full_like(want, 1 / want.size if step.squashed else 0), want, step))
            other += int(got.argmax() != want.argmax())
    row = {"model": name, "reference": "onnxruntime", "samples": INT8_SAMPLES, "output steps": worst, "steps of zeros": zeros}
    outcome.rows.append(row | {"other top-1": other})
    outcome.claims.append(Claim(f"{name}: output steps from onnxruntime without optimisations", worst, 1.0, "at most"))
    outcome.claims.append(Claim(f"{name}: inputs with another top-1", other, 0, "at most"))


def _worst_step(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], step: Step) -> float:
    return round(float(np.abs(in_steps(got, want, step)).max()), 3)


def _eager(module: Any) -> Callable[[Arrays], Arrays]:
    import torch

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        (array,) = inputs.values()
        with torch.inference_mode():
            return {"output": module(torch.from_numpy(array)).numpy()}

    return run


def _cifar(outcome: Outcome, options: Options) -> None:
    files = [data_file(name) for name in CIFAR]
    source = module_from(CIFAR[0])
    if source is None or None in files:
        outcome.skip("ResNet-20 on CIFAR-10", f"one of {', '.join(CIFAR)} is missing in $EFFC_DATA")
        return
    import torch

    network = source.load(files[1], 20)
    data = np.load(str(files[2]))
    count = 100 if options.quick else len(data["y"])
    images, labels = source.prep(data["x"][:count]), data["y"][:count]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        session = compiled(network, Path(folder, "artifact"), threads=options.threads, example_inputs=(images[:1],))
        expected = network(images).numpy().argmax(1)
        (found,) = (array.argmax(1) for array in session.run({session.inputs[0].name: images.numpy()}).values())
    different = int((found != expected).sum())
    common = int(np.bincount(labels).max())
    row = {"model": "ResNet-20 on CIFAR-10", "reference": "eager torch", "samples": len(labels), "other class": different}
    outcome.rows.append(row | {"top-1": float((found == labels).mean())})
    baseline = {"model": "ResNet-20 on CIFAR-10", "baseline": "one class", "samples": len(labels), "top-1": common / len(labels)}
    outcome.rows.append(baseline)
    outcome.claims.append(Claim("ResNet-20 on CIFAR-10: images with another class than eager torch", different, 0, "at most"))


def _symbolic_batches(outcome: Outcome, options: Options) -> None:
    from effc.frontends import load_program

    names = FLOAT_MODELS[:1] if options.quick else (*FLOAT_MODELS, *INT8_MODELS)
    files = [path for name in names if (path := data_file(f"onnx/{name}.onnx")) is not None]
    proved = 0
    for path in files:
        try:
            batch = load_program(path).interface.batch
        except Exception as error:  # noqa: BLE001 - as above: it counts as not proved
            outcome.rows.append({"model": path.stem, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            continue
        proved += batch.symbolic
        outcome.rows.append({"model": path.stem, "symbolic batch": batch.symbolic, "reason": batch.reason})
    if len(files) == len(names) and not options.quick:
        outcome.claims.append(Claim("ONNX files with a proved symbolic batch, of 8", proved, 7, "at least"))


if __name__ == "__main__":
    sys.exit(main(measure))
