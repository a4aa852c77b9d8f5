"""Data that a user gives: `.npz`, `.npy`, folders of images, arrays in memory, frames of videos, and how images become inputs."""

from __future__ import annotations

from effc.data.arrays import DATA_BYTES
from effc.data.dataset import Dataset
from effc.data.frames import FrameSource, open_frames
from effc.data.held import HeldArrays
from effc.data.loading import InputSpec, load_dataset
from effc.data.preprocess import Preprocess

__all__ = ["DATA_BYTES", "Dataset", "FrameSource", "HeldArrays", "InputSpec", "Preprocess", "load_dataset", "open_frames"]
