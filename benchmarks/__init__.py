"""Measurements, each `python -m benchmarks.NAME [--quick] [--json]`: `latency`, `accuracy`, `onnx_nodes`. `results` runs all of them."""
