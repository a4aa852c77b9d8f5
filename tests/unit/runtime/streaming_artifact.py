"""Two small streaming artifacts whose code is C, of one program: count and keep the last frame, compute only numbers that changed.

    y = 10 * kept,  kept = x where the frame is whole or |x - kept| > 0.5, else kept;  total: a state of the user's, += sum(x)

In `sparse_fields` the code keeps clock, frame and counters in a block; in `dense_fields` clock and frame are inputs and outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from effc.runtime.plan import Buffer, Plan, Step
from effc.runtime.tensors import Array, pack_npz
from tests.unit.runtime.dense_artifact import fields

SIZE, REFRESH = 4, 5

_FRAME = r"""
#include <math.h>
#include <stdint.h>
static int frame(const int32_t clock, int32_t *next, const float *old, float *kept, const float *x, float *y) {
  int moved = 0, whole = clock == 0 || clock >= 5;
  for (int i = 0; i < 4; ++i) moved += !(fabsf(x[i] - old[i]) <= 0.5f);
  whole |= moved > 3;
  *next = whole ? 1 : clock + 1;
  for (int i = 0; i < 4; ++i) {
    kept[i] = whole || !(fabsf(x[i] - old[i]) <= 0.5f) ? x[i] : old[i];
    y[i] = 10 * kept[i];
  }
  return moved;
}
static void sum(const float *x, const float *total, float *next) { *next = *total + x[0] + x[1] + x[2] + x[3]; }
"""

SPARSE_CODE = (
    _FRAME
    + r"""
int32_t run(uint8_t *arena, const uint8_t *parameters, uint8_t *states, const float *x, const float *total, float *y, float *next,
            int32_t *status) {
  *status = (uintptr_t)states % 64 || (uintptr_t)x % 4 || (uintptr_t)y % 64 ? 7 : 0;
  if (*status) return 0;
  int32_t *clock = (int32_t *)states, *active = (int32_t *)(states + 128);
  int moved = frame(*clock, clock, (float *)(states + 64), (float *)(states + 64), x, y);
  if (*clock != 1) { active[0] = moved / 2; active[1] = moved - moved / 2; }
  sum(x, total, next);
  if (x[0] == 99) *status = 2;
  return 0;
}
"""
)

DENSE_CODE = (
    _FRAME
    + r"""
int32_t run(uint8_t *arena, const uint8_t *parameters, const float *x, const float *total, const int32_t *clock, const float *old,
            float *y, float *next, int32_t *clock_next, float *kept, int32_t *status) {
  frame(*clock, clock_next, old, kept, x, y);
  sum(x, total, next);
  *status = x[0] == 99 ? 2 : 0;
  return 0;
}
"""
)

STATES = [
    {"input": "total", "output": "total_next", "resident": False},
    {"input": "stream.clock", "output": "stream.clock_next", "resident": True},
    {"input": "stream.x", "output": "stream.x_next", "resident": True},
]
_USER = (Buffer("x", "input", (1, SIZE), "float32", 0, 16), Buffer("total", "input", (1, 1), "float32", 0, 4))
_GIVEN = (Buffer("y", "output", (1, SIZE), "float32", 0, 16), Buffer("total_next", "output", (1, 1), "float32", 0, 4))
_STEPS = (
    Step("compare", "delta", ("x",), ("stream.clock",), ("frame",), ("truncate",), 0, 64),
    Step("scale", "delta_conv", ("x",), ("y",), ("head.conv",), ("conv2d", "relu"), 300, 64, "", "stream.active", SIZE),
    Step("sum", "total", ("x", "total"), ("total_next",), ("sum",), ("sum", "add"), 100, 64),
)

SPARSE_PLAN = Plan(
    entry="run",
    buffers=(
        *_USER,
        *_GIVEN,
        Buffer("stream.clock", "state", (1,), "int32", 0, 4),
        Buffer("stream.x", "state", (1, SIZE), "float32", 64, 16),
        Buffer("stream.active", "state", (2,), "int32", 128, 8),
    ),
    steps=_STEPS,
    arena_bytes=0,
    parameter_bytes=0,
    state_bytes=192,
    fresh=(Step("scale_all", "conv", ("x",), ("y",), ("head.conv",), ("conv2d", "relu"), 300, 64), _STEPS[2]),
    clock="stream.clock",
)

DENSE_PLAN = Plan(
    entry="run",
    buffers=(
        *_USER,
        Buffer("stream.clock", "input", (1,), "int32", 0, 4),
        Buffer("stream.x", "input", (1, SIZE), "float32", 0, 16),
        *_GIVEN,
        Buffer("stream.clock_next", "output", (1,), "int32", 0, 4),
        Buffer("stream.x_next", "output", (1, SIZE), "float32", 0, 16),
    ),
    steps=(Step("all", "conv", ("x",), ("y",), ("head.conv",), ("conv2d", "relu"), 300, 64),),
    arena_bytes=0,
    parameter_bytes=0,
)


def _tensor(name: str, shape: list[Any], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": dtype}


def streaming_fields(plan: Plan, **changes: Any) -> dict[str, Any]:
    """The manifest of either; both have the same inputs, outputs and states."""

    def side(suffix: str, first: str) -> list[dict[str, Any]]:
        return [
            _tensor(first, ["batch", SIZE]),
            _tensor(f"total{suffix}", ["batch", 1]),
            _tensor(f"stream.clock{suffix}", ["batch"], "int32"),
            _tensor(f"stream.x{suffix}", ["batch", SIZE]),
        ]

    return fields(
        inputs=side("", "x"),
        outputs=side("_next", "y"),
        states=STATES,
        batch={"size": 1, "symbolic": True, "reason": ""},
        parameters={},
        plan=plan.as_json(),
        passes=["delta{threshold=0.5}"],
        **changes,
    )


def streaming_files(code: bytes) -> dict[str, bytes]:
    x = clip(8)
    y = expected(x)[0]
    return {
        "model.so": code,
        "golden.npz": pack_npz(
            {"input/x": x, "input/total": np.zeros((8, 1), np.float32), "output/y": y, "output/total_next": x.sum(1, keepdims=True)}
        ),
        "config.toml": b'passes = "delta"\n',
    }


def clip(frames: int, seed: int = 0) -> Array:
    """Frames in which few numbers move far."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(-0.3, 0.3, (frames, SIZE)).astype(np.float32)
    x[:, 1] += np.arange(frames, dtype=np.float32)
    return x


def expected(x: Array) -> tuple[Array, Array]:
    """The outputs y (T, 4) and the running totals (T, 1)."""
    kept, clock, rows = np.zeros(SIZE, np.float32), 0, []
    for frame in x:
        moved = ~(np.abs(frame - kept) <= 0.5)
        whole = clock == 0 or clock >= REFRESH or moved.sum() > 3
        clock = 1 if whole else clock + 1
        kept = np.where(whole | moved, frame, kept)
        rows.append(10 * kept)
    return np.array(rows, np.float32), np.cumsum(x.sum(1, keepdims=True, dtype=np.float32), axis=0)
