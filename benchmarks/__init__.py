"""Measurements: `latency`, `dense_cpu`, `accuracy`, `onnx_nodes`, each `python -m benchmarks.NAME [--quick] [--json]`.

`results` runs all of them.
"""
