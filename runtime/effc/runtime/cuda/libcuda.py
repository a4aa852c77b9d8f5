"""NVIDIA's driver through ctypes: `libcuda.so.1`, which comes with the kernel module, not with the CUDA toolkit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from effc.errors import DataError, InternalError, MissingDependencyError
from effc.runtime.cuda.driver import fits
from effc.runtime.plan import Launch
from effc.runtime.tensors import Array

__all__ = ["LIBRARY", "LibCuda", "devices"]

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR, _OPT_IN_SHARED = 75, 76, 97  # CUdevice_attribute
_STATIC_SHARED, _DYNAMIC_SHARED = 1, 8  # CUfunction_attribute: SHARED_SIZE_BYTES, MAX_DYNAMIC_SHARED_SIZE_BYTES
_OUT_OF_MEMORY = 2  # CUresult
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: what other threads and libraries of the process ask of the driver meanwhile is their affair
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the stream does not wait for the default one
_WITHOUT_OPT_IN = 48 << 10  # bytes of shared memory that any launch may ask for

# name -> types of the arguments; all return a CUresult
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGetCount": (ctypes.c_void_p,),
    "cuDeviceGet": (ctypes.c_void_p, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.c_void_p, ctypes.c_int),
    "cuCtxSetCurrent": (ctypes.c_void_p,),
    "cuStreamCreate": (ctypes.c_void_p, ctypes.c_uint),
    "cuStreamDestroy_v2": (ctypes.c_void_p,),
    "cuStreamSynchronize": (ctypes.c_void_p,),
    "cuModuleLoadData": (ctypes.c_void_p, ctypes.c_void_p),
    "cuModuleUnload": (ctypes.c_void_p,),
    "cuModuleGetFunction": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    "cuFuncGetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p),
    "cuMemGetInfo_v2": (ctypes.c_void_p, ctypes.c_void_p),
    "cuFuncSetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "cuMemAlloc_v2": (ctypes.c_void_p, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
    "cuMemcpyDtoHAsync_v2": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
    "cuMemcpyDtoDAsync_v2": (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
    "cuMemsetD8Async": (ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p),
    "cuLaunchKernel": (ctypes.c_void_p, *(ctypes.c_uint,) * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
    "cuStreamBeginCapture_v2": (ctypes.c_void_p, ctypes.c_int),
    "cuStreamEndCapture": (ctypes.c_void_p, ctypes.c_void_p),
    "cuGraphInstantiateWithFlags": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64),
    "cuGraphDestroy": (ctypes.c_void_p,),
    "cuGraphExecDestroy": (ctypes.c_void_p,),
    "cuGraphLaunch": (ctypes.c_void_p, ctypes.c_void_p),
    "cuGetErrorString": (ctypes.c_int, ctypes.c_void_p),
}
# Of CUDA 12.4 and newer: where a function's parameters lie. Older drivers cannot tell how many there are.
_PARAMETERS = "cuFuncGetParamInfo"


def _load(library: str) -> ctypes.CDLL:
    """The driver, ready. Raises MissingDependencyError."""
    try:
        loaded = ctypes.CDLL(library)
        for name, types in _FUNCTIONS.items():
            getattr(loaded, name).argtypes = types
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"there is no usable driver of NVIDIA's on this machine ({error}): code for a GPU runs only where there is one, with a driver "
            "of CUDA 11.4 or newer"
        ) from error
    code = loaded.cuInit(0)
    if code != 0:
        raise MissingDependencyError(f"NVIDIA's driver finds no GPU that works on this machine: {_said(loaded, code)}")
    return loaded


def _said(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    known = library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value
    return f"{text.value.decode(errors='replace')} (CUresult {code})" if known and text.value else f"CUresult {code}"


def devices(library: str = LIBRARY) -> list[tuple[str, tuple[int, int]]]:
    """(name, compute capability) of the GPUs of this machine, in the driver's order. Raises MissingDependencyError without a driver."""
    loaded = _load(library)
    count = ctypes.c_int()
    if loaded.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(loaded, index) for index in range(count.value)]


def _device(library: ctypes.CDLL, index: int) -> tuple[str, tuple[int, int]]:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace"), (_attribute(library, device.value, _MAJOR), _attribute(library, device.value, _MINOR))


def _attribute(library: ctypes.CDLL, device: int, which: int) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value


class LibCuda:
    """One GPU; see `Driver`.

    Attributes:
        name: of the card.
    """

    def __init__(self, architecture: str, library: str = LIBRARY) -> None:
        """The first GPU that runs code of an architecture such as `sm_90`.

        Args:
            architecture: of the code.
            library: the driver's name or path.

        Raises:
            MissingDependencyError: no driver, no GPU.
            DataError: only GPUs of other architectures.
        """
        found = devices(library)
        if not found:
            raise MissingDependencyError("NVIDIA's driver is on this machine, but it sees no GPU (is CUDA_VISIBLE_DEVICES set?)")
        index = next((index for index, (_, capability) in enumerate(found) if fits(architecture, capability)), None)
        if index is None:
            here = ", ".join(f"{name} (sm_{major}{minor})" for name, (major, minor) in found)
            raise DataError(
                f"the code is for GPUs of architecture {architecture}, and this machine has {here}: compile the model with --target "
                f"cuda:sm_{found[0][1][0]}{found[0][1][1]}"
            )
        self._cuda = _load(library)
        self.name = found[index][0]
        device, self._context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuDeviceGet", ctypes.byref(device), index)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._most_shared = _attribute(self._cuda, device.value, _OPT_IN_SHARED)
        self._here()
        self._do("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        self._module = ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._blocks: list[int] = []
        self._graphs: list[ctypes.c_void_p] = []

    def load(self, code: bytes, launches: Iterable[Launch] = ()) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(code))
        wanted: dict[str, list[Launch]] = {}
        for launch in launches:
            wanted.setdefault(launch.kernel, []).append(launch)
        for kernel, ones in wanted.items():
            self._functions[kernel] = self._function(kernel, max(one.shared for one in ones))
            count = self._parameters_of(self._functions[kernel])
            wrong = next((len(one.arguments) for one in ones if count is not None and len(one.arguments) != count), None)
            if wrong is not None:
                raise InternalError(f"{kernel} takes {count} pointers, and a launch of the plan gives it {wrong}")

    def allocate(self, size: int) -> int:
        """See `Driver`."""
        self._here()
        block = ctypes.c_uint64()
        code = self._cuda.cuMemAlloc_v2(ctypes.byref(block), max(1, size))
        if code == _OUT_OF_MEMORY:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            self._do("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            raise DataError(
                f"{self.name} has no room for {size:,} bytes: of {total.value:,} bytes {free.value:,} are free; end what else uses the "
                "GPU, drop streams and sessions that are no longer needed, or compile for a smaller batch"
            )
        self._checked("cuMemAlloc_v2", code)
        self._blocks.append(block.value)
        return block.value

    def upload(self, to: int, array: Array) -> None:
        """See `Driver`. Most drivers have copied memory that is not pinned when the call returns, but none has to."""
        self._here()
        self._do("cuMemcpyHtoDAsync_v2", to, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: Array, source: int) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuMemcpyDtoHAsync_v2", array.ctypes.data, source, array.nbytes, self._stream)
        self.synchronise()

    def copy(self, to: int, source: int, size: int) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuMemcpyDtoDAsync_v2", to, source, size, self._stream)

    def clear(self, to: int, size: int) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuMemsetD8Async", to, 0, size, self._stream)

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], shared: int, arguments: Sequence[int]) -> None:
        """See `Driver`."""
        self._here()
        values = [ctypes.c_uint64(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(value) for value in values))
        self._do("cuLaunchKernel", self._functions[kernel], *grid, *block, shared, self._stream, pointers, None)

    def record(self, work: Callable[[], None]) -> Any:
        """See `Driver`: a CUDA graph."""
        self._here()
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuStreamBeginCapture_v2", self._stream, _RELAXED)
        try:
            try:
                work()
            finally:
                code = self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            if code != 0:
                raise InternalError(f"the GPU's driver could not record the launches: {_said(self._cuda, code)}")
            self._do("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, 0)
            self._graphs.append(ready)
        finally:
            if graph:
                self._cuda.cuGraphDestroy(graph)
        return ready

    def replay(self, recorded: Any) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuGraphLaunch", recorded, self._stream)

    def synchronise(self) -> None:
        """See `Driver`."""
        self._here()
        self._do("cuStreamSynchronize", self._stream)

    def __del__(self) -> None:
        """Give everything back; the context and the driver stay for others of this process."""
        cuda = getattr(self, "_cuda", None)
        if cuda is None or not getattr(self, "_stream", None):
            return
        cuda.cuCtxSetCurrent(self._context)
        for graph in getattr(self, "_graphs", ()):
            cuda.cuGraphExecDestroy(graph)
        cuda.cuStreamDestroy_v2(self._stream)
        for block in getattr(self, "_blocks", ()):
            cuda.cuMemFree_v2(block)
        if getattr(self, "_module", None):
            cuda.cuModuleUnload(self._module)

    def _function(self, kernel: str, shared: int) -> ctypes.c_void_p:
        """A function, with leave to be started with so much dynamic shared memory beside what it declares."""
        found, declared = ctypes.c_void_p(), ctypes.c_int()
        self._do("cuModuleGetFunction", ctypes.byref(found), self._module, kernel.encode())
        self._do("cuFuncGetAttribute", ctypes.byref(declared), _STATIC_SHARED, found)
        whole = declared.value + shared
        if whole > self._most_shared:
            raise InternalError(f"{kernel} needs {whole} bytes of shared memory, and {self.name} has {self._most_shared}")
        if whole > _WITHOUT_OPT_IN:
            self._do("cuFuncSetAttribute", found, _DYNAMIC_SHARED, shared)
        return found

    def _parameters_of(self, function: ctypes.c_void_p) -> int | None:
        """How many parameters a function has; None where the driver cannot tell."""
        if not hasattr(self._cuda, _PARAMETERS):
            return None
        offset, size, count = ctypes.c_size_t(), ctypes.c_size_t(), 0
        ask = getattr(self._cuda, _PARAMETERS)
        while ask(function, ctypes.c_size_t(count), ctypes.byref(offset), ctypes.byref(size)) == 0:
            count += 1
        return count

    def _here(self) -> None:
        """The context belongs to a thread; calls may come from any."""
        self._do("cuCtxSetCurrent", self._context)

    def _do(self, name: str, *arguments: Any) -> None:
        self._checked(name, getattr(self._cuda, name)(*arguments))

    def _checked(self, name: str, code: int) -> None:
        if code != 0:
            raise InternalError(f"the GPU's driver refuses {name}: {_said(self._cuda, code)}")
