"""One way to inject faults, in a process of its own: `{"fault": i}` on stdin, `{"ns", "critical", "masked"}` on stdout.

Every way gets the same faults on the same images and answers the same question: on how many images does the prediction change?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import compiled
from benchmarks.resnet20 import images, network, program
from effc.data import Dataset
from effc.errors import DataError
from effc.faultsim.drawing import Group, draw
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.images import BatchGroups
from effc.faultsim.population import whole
from effc.faultsim.sites import Site, find_sites

__all__ = ["ENGINES", "main"]

Try = Callable[[Injection], tuple[int, int]]
BATCHES = (32, 64, 128, 256, 500, 1000)  # of the plain loop, which takes the fastest
SEED = 20
_BATCH = 256  # of effc: the most that it takes by itself
_COMPILED_BATCH = 8


def main() -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=tuple(ENGINES), required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--cpu", type=int, required=True, help="the one processor of this process")
    parser.add_argument("--work", type=Path, required=True, help="a folder for compiled code")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    torch.set_num_threads(1)
    data = images(options.images)
    sites = find_sites(program(), where=("weight",), ops=("conv2d",))  # PyTorchFI cannot index a linear layer's weight
    group = Group("weights", whole(sites))
    once, settings = ENGINES[options.engine](data, sites, options.work)
    once(draw(group, 0, 1_000_000, SEED, tuple(sites), "flip"))  # a fault that is not among the timed ones
    _say({"ready": settings})
    for line in sys.stdin:
        injection = draw(group, 0, json.loads(line)["fault"], SEED, tuple(sites), "flip")
        start = time.perf_counter_ns()
        critical, masked = once(injection)
        _say({"ns": time.perf_counter_ns() - start, "critical": critical, "masked": masked})
    return 0


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def _plain(data: Dataset, sites: Sequence[Site], work: Path) -> tuple[Try, dict[str, Any]]:
    """XOR in place, one pass over all images, undo: what a user writes first. It takes the fastest batch and memory format."""
    module = network()
    size, layout = _fastest(module, data, (torch.contiguous_format, torch.channels_last))
    module.to(memory_format=layout)
    weights = dict(module.named_parameters())
    batches = _cut(data, size, layout)
    golden = torch.cat([_predict(module, one) for one in batches])

    def once(injection: Injection) -> tuple[int, int]:
        weight = weights[sites[int(injection.sites[0])].name].detach()
        index = tuple(int(one) for one in sites[int(injection.sites[0])].index(int(injection.elements[0])))
        words = weight.view(torch.int32)
        before = int(words[index])
        mask = 1 << int(injection.bits[0])
        words[index] = before ^ (mask if mask < 1 << 31 else -(1 << 31))
        outputs = torch.cat([_predict(module, one) for one in batches])
        words[index] = before
        return _compared(outputs, golden)

    return once, {"batch": size, "memory": str(layout).removeprefix("torch."), "passes": "whole network, eager torch"}


def _pytorchfi(data: Dataset, sites: Sequence[Site], work: Path) -> tuple[Try, dict[str, Any]]:
    """PyTorchFI has no flips of weights' bits: it is given the value that the flip makes. It copies the network for each fault."""
    try:
        from pytorchfi.core import fault_injection
    except ImportError as error:
        raise DataError(f"pytorchfi is not installed ({error}): pip install 'effc[peers]'") from error
    module = network()
    size, _ = _fastest(module, data, (torch.contiguous_format,))
    injector = fault_injection(module, size, input_shape=[3, 32, 32], layer_types=[torch.nn.Conv2d], use_cuda=False)
    batches = torch.from_numpy(data.inputs["x"]).split(size)
    golden = torch.cat([_predict(module, one) for one in batches])
    weights = dict(module.named_parameters())
    numbers = {f"{name}.weight": number for number, name in enumerate(_convolutions(module))}

    def once(injection: Injection) -> tuple[int, int]:
        site = sites[int(injection.sites[0])]
        index = site.index(int(injection.elements[0]))
        word = np.float32(weights[site.name].detach()[index].item()).view(np.uint32)
        value = float((word ^ np.uint32(1 << int(injection.bits[0]))).view(np.float32))
        places = {name: [one] for name, one in zip(("k", "dim1", "dim2", "dim3"), index, strict=True)}
        faulty = injector.declare_weight_fi(layer_num=[numbers[site.name]], value=[value], **places)
        return _compared(torch.cat([_predict(faulty, one) for one in batches]), golden)

    return once, {"batch": size, "passes": "whole network, eager torch"}


def _convolutions(module: Any) -> list[str]:
    return [name for name, one in module.named_modules() if isinstance(one, torch.nn.Conv2d)]


def _fastest(module: Any, data: Dataset, layouts: Sequence[torch.memory_format]) -> tuple[int, torch.memory_format]:
    """The batch and the memory format with the shortest pass over all images."""
    best: tuple[float, int, torch.memory_format] = (float("inf"), 0, layouts[0])
    for layout in layouts:
        module.to(memory_format=layout)
        for size in BATCHES:
            batches = _cut(data, size, layout)
            for _ in range(3):
                start = time.perf_counter()
                for one in batches:
                    _predict(module, one)
                best = min(best, (time.perf_counter() - start, size, layout), key=lambda one: one[0])
    return best[1], best[2]


def _cut(data: Dataset, size: int, layout: torch.memory_format) -> list[torch.Tensor]:
    return [one.contiguous(memory_format=layout) for one in torch.from_numpy(data.inputs["x"]).split(size)]


def _compared(outputs: torch.Tensor, golden: torch.Tensor) -> tuple[int, int]:
    """Images whose prediction changed, and images whose outputs are the same."""
    critical = int(((torch.nan_to_num(outputs, nan=-torch.inf).argmax(1) != golden.argmax(1)) | ~torch.isfinite(outputs).all(1)).sum())
    return critical, int((outputs == golden).all(1).sum())


def _effc(early: bool, late: bool) -> Callable[[Dataset, Sequence[Site], Path], tuple[Try, dict[str, Any]]]:
    def build(data: Dataset, sites: Sequence[Site], work: Path) -> tuple[Try, dict[str, Any]]:
        groups = BatchGroups(data, ["x"], images=None, per_fault=None, batch=_BATCH, seed=0)
        engine = ProgramEngine(program(), sites, groups, early_stop=early, late_start=late, memory=4 << 30)
        list(engine.golden_run())
        passes = "from the fault on" if late else "whole network"
        return _records(engine), {"batch": groups.batch, "passes": passes + (", until nothing differs" if early else "")}

    return build


def _compiled(data: Dataset, sites: Sequence[Site], work: Path) -> tuple[Try, dict[str, Any]]:
    """effc's compiled code: every fault is a whole pass, through writable views of the artifact's parameters."""
    from effc.faultsim.artifact_subject import ArtifactSubject
    from effc.faultsim.spec import CampaignSpec

    shape = [_COMPILED_BATCH, *data.inputs["x"].shape[1:]]
    compiled(network(), work / "compiled", threads=1, batch=_COMPILED_BATCH, winograd="off", example_inputs=[torch.zeros(shape)])
    subject = ArtifactSubject(work / "compiled", "resnet20")
    spec = CampaignSpec(where=("weight",))
    own = subject.sites(spec)
    groups = subject.images(data, spec, _COMPILED_BATCH)
    engine = subject.engine(spec, own, groups)
    list(engine.golden_run())
    number = {site.name: index for index, site in enumerate(own)}
    tried = _records(engine)

    def once(injection: Injection) -> tuple[int, int]:
        here = np.array([number[sites[int(injection.sites[0])].name]], np.int64)
        return tried(Injection(0, 0, 1, here, injection.elements, injection.bits))

    return once, {"batch": groups.batch, "passes": "whole network, compiled"}


def _records(engine: Any) -> Try:
    def once(injection: Injection) -> tuple[int, int]:
        (record,) = engine.run([injection], lambda count: None)
        return record.critical, record.masked

    return once


def _predict(module: Any, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        outputs: torch.Tensor = module(batch)
    return outputs


ENGINES: dict[str, Callable[[Dataset, Sequence[Site], Path], tuple[Try, dict[str, Any]]]] = {
    "plain loop": _plain,
    "pytorchfi": _pytorchfi,
    "effc": _effc(True, True),
    "effc, late start only": _effc(False, True),
    "effc, early stop only": _effc(True, False),
    "effc, neither": _effc(False, False),
    "effc, compiled": _compiled,
}

if __name__ == "__main__":
    sys.exit(main())
