"""Chunks made in this process or in several; the results are the same bytes.

Each worker loads the subject and the data from a working folder, runs with the campaign's number of threads, checks that its golden run has
the bits of the campaign's, and writes its chunks itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from effc.errors import EffcError, InternalError, VerificationError
from effc.faultsim.design import Chunk, Design
from effc.faultsim.engine import Engine
from effc.faultsim.outcomes import Outcome
from effc.faultsim.store import Store

__all__ = ["Crew", "golden_digest", "make_chunk", "torch_threads"]

Build = Callable[[Path], "tuple[Design, Engine, Store]"]


def golden_digest(engine: Engine) -> tuple[str, Outcome]:
    """SHA-256 of the fault-free outputs of all batches (bytes, shapes and order), and what they got right."""
    digest, total = hashlib.sha256(), Outcome()
    for outputs, outcome in engine.golden_run():
        total += outcome
        for array in outputs:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest(), total


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch's threads inside an operator, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_chunk(design: Design, engine: Engine, store: Store, chunk: Chunk, advance: Callable[[int], None] = lambda count: None) -> None:
    """Run the injections of a chunk and keep their records."""
    injections = [design.draw(*key) for key in chunk.keys]
    store.write(chunk.stage, chunk.number, engine.run(injections, advance))


@dataclass
class Crew:
    """Worker processes, or this process alone for one job.

    Attributes:
        jobs: how many. `threads`: of each.
        design, engine, store: of this process.
        work: a folder that `build` makes the same three of in another process.
        build: a function at the top of a module.
        golden: the digest that every worker's golden run must have.
    """

    jobs: int
    threads: int
    design: Design
    engine: Engine
    store: Store
    work: Path
    build: Build
    golden: str
    _pool: ProcessPoolExecutor | None = None

    def make(self, chunks: Sequence[Chunk], advance: Callable[[int], None]) -> None:
        """Make all chunks. `advance` is told of injections as they are done."""
        if self.jobs == 1:
            with torch_threads(self.threads):
                for chunk in chunks:
                    make_chunk(self.design, self.engine, self.store, chunk, advance)
            return
        pool = self._started()
        waiting = {pool.submit(_work, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(waiting):
                future.result()
                advance(len(waiting[future].keys))
        except BrokenProcessPool as error:
            raise InternalError(
                "a worker process died, perhaps for want of memory: what is done is kept; run the same command again, with fewer --jobs"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing

            # spawned, not forked: torch's and TVM's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.jobs, context, initializer=_start, initargs=(self.build, self.work, self.threads, self.golden, os.getpid())
            )
        return self._pool


_MINE: list[tuple[Design, Engine, Store]] = []  # of a worker process
_FAILED: list[EffcError] = []


def _start(build: Build, work: Path, threads: int, golden: str, parent: int) -> None:
    """Set a worker up. An error is kept for the first chunk: one raised here would only say that the pool is broken."""
    _die_with(parent, work)
    torch.set_num_threads(threads)
    try:
        design, engine, store = build(work)
        found, _ = golden_digest(engine)
        if found != golden:
            raise VerificationError(f"a worker's fault-free run has other bits ({found[:12]}) than the campaign's ({golden[:12]})")
        _MINE.append((design, engine, store))
    except EffcError as error:
        _FAILED.append(error)


def _work(chunk: Chunk) -> None:
    if _FAILED:
        raise _FAILED[0]
    make_chunk(*_MINE[0], chunk)


def _die_with(parent: int, work: Path) -> None:
    """End when the parent is killed: it cannot say so any more, nor remove the working folder, which has a copy of the data."""
    import threading
    import time

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        shutil.rmtree(work, ignore_errors=True)  # the other workers do the same
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
