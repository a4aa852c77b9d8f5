"""How many threads TVM's pool uses, and on which processors.

Left alone, TVM uses half of the processors it sees and pins its threads, *the calling one included*, to the processors with the
lowest numbers: under `taskset -c 2,3` it would leave the allowed ones. Here the number comes from the affinity of the process, and
nothing is pinned (unless the user sets TVM_BIND_THREADS=1).

TVM makes one pool for each calling thread at that thread's first parallel kernel, sized by the environment at that moment. So the
environment is set just then, and each call selects how many of the pool's threads work.
"""

from __future__ import annotations

import os
import threading

from effc.errors import ConfigError
from effc.runtime.native import call_global

__all__ = ["available_threads", "use_threads"]

_SIZE = "TVM_NUM_THREADS"
_PIN = "TVM_BIND_THREADS"
_KEEP_MODE = 1  # AffinityMode kBig: without pinning only the number counts
_local = threading.local()


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
    if getattr(_local, "count", None) == count:
        return int(_local.actual)
    if getattr(_local, "count", None) is None:
        os.environ.setdefault(_PIN, "0")
        previous = os.environ.get(_SIZE)
        os.environ[_SIZE] = str(max(count, available_threads()))
        try:
            call_global("runtime.config_threadpool", _KEEP_MODE, count)  # makes the pool
        finally:
            if previous is None:
                del os.environ[_SIZE]
            else:
                os.environ[_SIZE] = previous
    else:
        call_global("runtime.config_threadpool", _KEEP_MODE, count)
    actual = call_global("runtime.NumThreads")
    _local.count, _local.actual = count, actual or 1
    return int(_local.actual)
