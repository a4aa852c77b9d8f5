"""What only a GPU can show. On machines without one these tests say so and are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effc.compiler import compile_model
from effc.errors import MissingDependencyError
from effc.lowering.cuda.nvcc import find_nvcc
from effc.runtime import Session, Stream, load, verify_golden
from effc.runtime.cuda.libcuda import devices

DIGITS = Path(__file__).parents[2] / "examples" / "digits.onnx"


def _capability() -> tuple[int, int] | None:
    try:
        return next((capability for _, capability in devices()), None)
    except MissingDependencyError:
        return None


CAPABILITY = _capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY is None, reason="no NVIDIA GPU, or no driver (libcuda.so.1)"),
    pytest.mark.skipif(find_nvcc() is None, reason="no nvcc to compile CUDA C"),
]


def target() -> str:
    assert CAPABILITY is not None
    return f"cuda:sm_{CAPABILITY[0]}{CAPABILITY[1]}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("gpu") / "digits"
    compile_model(DIGITS, folder, target=target())
    return load(folder)


def test_golden_vectors(digits: Session) -> None:
    assert verify_golden(digits).worst < 1e-5


def test_every_call_gives_the_same_bits(digits: Session) -> None:
    inputs = {spec.name: np.random.default_rng(0).random(spec.shape, np.float32) for spec in digits.inputs}
    results = {tuple(array.tobytes() for array in digits.run(inputs).values()) for _ in range(20)}
    assert len(results) == 1


def test_a_stream_computes_what_moved_as_whole_frames_do(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    passes = "eliminate-dead,fold-constants,fold-batch-norm,delta{dense=never}"
    compile_model(DIGITS, tmp_path / "moving", target=target(), passes=passes, data=clip)
    session = load(tmp_path / "moving")
    stream, whole = Stream(session), Stream(session)
    frames = clip[:1].repeat(4, 0)
    frames[2:, ..., 2, 3] += 1
    for frame in frames:
        whole.reset()
        name = stream.inputs[0].name
        assert stream.run({name: frame[None]})["logits"].tobytes() == whole.run({name: frame[None]})["logits"].tobytes()


def test_the_kernel_that_skips_is_right_on_the_device(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4096, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)).eval()
    compile_model(net, tmp_path / "net", target=target(), example_inputs=(torch.zeros(1, 4096),))
    session = load(tmp_path / "net")
    x = torch.randn(1, 4096) * (torch.rand(1, 4096) < 0.3)
    (result,) = session.run({session.inputs[0].name: x.numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(result, net(x).numpy(), rtol=0, atol=1e-5)
