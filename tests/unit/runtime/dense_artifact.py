"""A small artifact whose code is C: y = relu(x @ w + b), batch 4, run by two threads of TVM's pool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from effc.runtime.plan import Buffer, Plan, Step
from effc.runtime.tensors import Array, pack_npz, pack_safetensors

BATCH, IN, OUT = 4, 5, 3

CODE = r"""
#include <stdint.h>
typedef struct { void *sync; int32_t tasks; } Group;
extern int TVMBackendParallelLaunch(int (*)(int, Group *, void *), void *, int);
typedef struct { float *hidden; const float *w, *b, *x; } Data;
static int product(int task, Group *group, void *raw) {
  Data *d = raw;
  for (int n = task; n < 4; n += group->tasks)
    for (int o = 0; o < 3; ++o) {
      float sum = d->b[o];
      for (int i = 0; i < 5; ++i) sum += d->x[n * 5 + i] * d->w[i * 3 + o];
      d->hidden[n * 3 + o] = sum;
    }
  return 0;
}
int32_t run(uint8_t *arena, const uint8_t *parameters, const void *x, void *y, void *threads, int32_t *status) {
  *status = 7;
  if ((uintptr_t)arena % 64 || (uintptr_t)parameters % 64 || (uintptr_t)x % 4 || (uintptr_t)y % 64) return 0;
  *status = 8;
  Data d = {(float *)arena, (const float *)parameters, (const float *)(parameters + 64), x};
  if (TVMBackendParallelLaunch(product, &d, 0)) return 0;
  for (int i = 0; i < 12; ++i) ((float *)y)[i] = d.hidden[i] > 0 ? d.hidden[i] : 0;
  for (int i = 0; i < 4; ++i) ((int64_t *)threads)[i] = i;
  *status = 0;
  return 0;
}
"""

PLAN = Plan(
    entry="run",
    buffers=(
        Buffer("x", "input", (BATCH, IN), "float32", 0, 80),
        Buffer("w", "parameter", (IN, OUT), "float32", 0, 60),
        Buffer("b", "parameter", (OUT,), "float32", 64, 12),
        Buffer("hidden", "arena", (BATCH, OUT), "float32", 0, 48, 0, 1),
        Buffer("y", "output", (BATCH, OUT), "float32", 0, 48),
        Buffer("row", "output", (BATCH,), "int64", 0, 32),
    ),
    steps=(Step("product", "matmul", ("x", "w", "b"), ("hidden",), ("fc",), ("linear",), 60, 200),),
    arena_bytes=64,
    parameter_bytes=128,
)


def dense(x: Array, w: Array, b: Array) -> Array:
    result: Array = np.maximum(x @ w + b, 0)
    return result


def compile_c(cc: str, code: str, folder: Path) -> bytes:
    (folder / "model.c").write_text(code)
    subprocess.run([cc, "-O1", "-shared", "-fPIC", "model.c", "-o", "model.so"], cwd=folder, check=True)
    return (folder / "model.so").read_bytes()


def weights() -> dict[str, Array]:
    generator = np.random.default_rng(7)
    return {
        "w": generator.standard_normal((IN, OUT), dtype=np.float32),
        "b": generator.standard_normal(OUT, dtype=np.float32),
    }


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "executor": "plan",
        "inputs": [{"name": "x", "shape": ["batch", IN], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": ["batch", OUT], "dtype": "float32"}, {"name": "row", "shape": ["batch"], "dtype": "int64"}],
        "states": [],
        "batch": {"size": BATCH, "symbolic": True, "reason": ""},
        "preprocess": None,
        "target": {"name": "cpu"},
        "passes": ["fold-constants"],
        "versions": {"effc": "0.1.0"},
        "source": {"name": "dense.onnx", "sha256": "0" * 64},
        "parameters": {
            "w": {"source": "fc.weight", "kind": "permutation", "permutation": [1, 0]},
            "b": {"source": "fc.bias", "kind": "same", "permutation": None},
        },
        "plan": PLAN.as_json(),
    } | changes


def files(code: bytes) -> dict[str, bytes]:
    parameters = weights()
    x = np.random.default_rng(1).standard_normal((BATCH, IN), dtype=np.float32)
    y = dense(x, parameters["w"], parameters["b"])
    return {
        "model.so": code,
        "params.safetensors": pack_safetensors(parameters),
        "golden.npz": pack_npz({"input/x": x, "output/y": y, "output/row": np.arange(BATCH)}),
        "checks/00-source.npz": pack_npz({"output/y": y}),
        "config.toml": b'passes = "fold-constants"\n',
    }
