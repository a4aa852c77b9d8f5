"""Data that a user gives: `.npz`, `.npy`, folders of images, and how images become inputs."""

from __future__ import annotations

from effc.data.arrays import DATA_BYTES
from effc.data.dataset import Dataset
from effc.data.loading import InputSpec, load_dataset
from effc.data.preprocess import Preprocess

__all__ = ["DATA_BYTES", "Dataset", "InputSpec", "Preprocess", "load_dataset"]
