"""Artifacts for NVIDIA's GPUs: the driver through ctypes, and an executor with everything on the device."""
