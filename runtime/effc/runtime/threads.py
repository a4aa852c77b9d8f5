"""How many threads TVM's pool uses, and on which processors.

Left alone, TVM uses half of the processors it sees and pins its threads, *the calling one included*, to the processors with the
lowest numbers: under `taskset -c 2,3` it would leave the allowed ones. Here the number comes from the affinity of the process, and
nothing is pinned (unless the user sets TVM_BIND_THREADS=1).

Every calling thread has two things of its own in TVM. A *pool*, made once at the size of the maximum at that moment; of its threads, a
chosen number works. And the *maximum* itself, which every parallel kernel looks up again: at 1 it runs alone, whatever the pool has, and
unset it means TVM's own default. Choosing how many of the pool work also unsets the maximum, so it is set before and after.
"""

from __future__ import annotations

import os
import threading

from effc.errors import ConfigError
from effc.runtime.native import call_global, set_max_concurrency

__all__ = ["available_threads", "use_threads"]

_SIZE = "TVM_NUM_THREADS"
_PIN = "TVM_BIND_THREADS"
_KEEP_MODE = 1  # AffinityMode kBig: without pinning only the number counts


class _OfThisThread(threading.local):
    """What the calling thread last asked for and got; 0 before it asks."""

    count: int = 0
    actual: int = 0


_this = _OfThisThread()


def available_threads() -> int:
    """Threads to use unless told otherwise: `TVM_NUM_THREADS`, or the processors that this process may run on."""
    value = os.environ.get(_SIZE)
    if value is None:
        return len(os.sched_getaffinity(0))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{_SIZE} is {value!r}; it must be a positive number of threads")
    return int(value)


def use_threads(count: int) -> int:
    """Make the calling thread's next kernels run on `count` threads; returns how many they get.

    Fewer than asked when this thread's pool was already made smaller, for example by TVM itself before effc was used.
    """
    if _this.count == count:
        return _this.actual
    if _this.count == 0:
        os.environ.setdefault(_PIN, "0")
        set_max_concurrency(max(count, available_threads()))  # room for a later session of this thread that takes them all
        call_global("runtime.NumThreads")  # makes the pool
    call_global("runtime.config_threadpool", _KEEP_MODE, count)
    actual = call_global("runtime.NumThreads") or 1
    set_max_concurrency(actual)
    _this.count, _this.actual = count, actual
    return actual
