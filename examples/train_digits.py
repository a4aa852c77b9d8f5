"""Train the bundled model: a small CNN on scikit-learn's handwritten digits, exported to ONNX.

    python examples/train_digits.py            # writes examples/digits.onnx, digits_calibration.npz, digits_test.npz

1,797 images of 8x8 grey levels 0..16 (UCI Optical Recognition of Handwritten Digits, shipped inside scikit-learn). A stratified
quarter is the test set; nothing of it is seen in training or calibration. Everything is seeded: the same versions write the same bytes.
Needs the extra `dev` (scikit-learn).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

SEED = 0
EPOCHS = 60
BATCH = 64


class DigitsNet(nn.Module):
    """Two strided residual stages of 3x3 convolutions with batch norm, then one linear layer: 25 k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        return self.classifier(torch.flatten(self.pool(x), 1))


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images, test images (N, 1, 8, 8) float32 in [0, 1], and their labels."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    labels = digits.target.astype("int64")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, random_state=SEED, stratify=labels)
    return x, x_test, y, y_test


def train(images: np.ndarray, labels: np.ndarray) -> DigitsNet:
    """A trained network in evaluation mode."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # one thread: sums in one order, so that a retraining gives the same weights
    model = DigitsNet()
    order = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        shuffled = torch.randperm(len(x), generator=order)
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = shuffled[start : start + BATCH]
            optimiser.zero_grad()
            F.cross_entropy(model(_shifted(x[chosen], order)), y[chosen]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every image moved by up to one pixel each way: the only augmentation that 8x8 digits bear."""
    padded = F.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images)), generator=generator).tolist()
    return torch.stack([padded[i, :, d : d + 8, r : r + 8] for i, (d, r) in enumerate(zip(down, right, strict=True))])


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """An .npz with fixed timestamps, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out = parser.parse_args().out
    train_x, test_x, train_y, test_y = data()
    model = train(train_x, train_y)
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean())
    batch = torch.export.Dim("batch", min=1)
    exported = torch.onnx.export(
        model,
        (torch.from_numpy(test_x[:2]),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: batch}},
        dynamo=True,
        optimize=False,  # it would fold the batch norms, and a trained network still has them
        verbose=False,
    )
    fold_constants(exported.model)
    remove_unused_nodes(exported.model)
    proto = exported.model_proto
    for node in proto.graph.node:  # the exporter writes stack traces with paths of this machine: leave them out
        del node.metadata_props[:]
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.save(proto, out / "digits.onnx")
    save_npz(out / "digits_calibration.npz", x=train_x, y=train_y)
    save_npz(out / "digits_test.npz", x=test_x, y=test_y)
    print(f"test accuracy {accuracy:.2%} on {len(test_y)} images; {(out / 'digits.onnx').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
