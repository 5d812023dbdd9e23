"""Numba kernels: compiled once on a machine, kept on disk, run on torch's number of threads.

Kernels are kept by numba in ``__pycache__`` beside the file that defines them or, where that is not
writable, in the user's cache folder (or in ``NUMBA_CACHE_DIR``). However many processes start at
once, one compiles and the others wait for it; once compiled, none waits. No kernel uses numba's own
threading, which would change torch's; all release the interpreter's lock.

Importing this imports numba.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import llvmlite.binding
import numba
import torch

_OPTIONS = {"nogil": True, "error_model": "numpy"}
kernel = numba.njit(**_OPTIONS, cache=True)
inlined = numba.njit(**_OPTIONS, forceinline=True)

# Where numba finds no folder to keep kernels in it raises RuntimeError here, at the import, while
# plain torch can still take over.
kernel(lambda: None)


def generated(
    file: str,
    name: str,
    source: str,
    space: dict,
    inlined: Sequence[str] = (),
    called: Sequence[str] = (),
    **options: object,
) -> Callable:
    """A kernel from generated source, which defines the function NAME.

    Numba keeps it on disk under its name and ``file``; the name tells source, options, this file.

    Args:
        file: the file that generates the source.
        name: what the kernel does; a hash of source and options is appended.
        source: Python; NAME stands for the kernel's name.
        space: the names that the source refers to.
        inlined: functions that the source defines for its kernel to call, put in its place.
        called: functions that stay functions, each defined after those that it calls.
        options: of `numba.njit`, for the kernel and what it calls.
    """
    options = _OPTIONS | options
    told = f"{source}{sorted(options.items())}{Path(__file__).read_text(encoding='utf-8')}"
    digest = hashlib.sha256(told.encode()).hexdigest()
    name = f"{name}_{digest[:12]}"
    space = {"__name__": __name__} | space
    exec(compile(source.replace("NAME", name), file, "exec"), space)
    for callee in (*inlined, *called):
        # The linker knows functions by name, whatever process compiled them: two kernels that are
        # found on disk must not each have a function of one name, or one runs the other's.
        space[callee].__qualname__ = space[callee].__name__ = f"{callee}_{digest[:12]}"
        inline = {"forceinline": True} if callee in inlined else {}
        space[callee] = numba.njit(space[callee], **inline, **options)
    return numba.njit(space[name], cache=True, **options)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` if its file system has locks; else go on without."""
    with open(path, "w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def compile_alone(step: Callable[[], object], beside: Callable, key: str) -> None:
    """Run ``step``, which compiles, unless a process has done so: then numba finds it on disk.

    Args:
        step: a first, small call of kernels.
        beside: one of them; in the folder where numba keeps it a stamp is left.
        key: all that the compiled code depends on, but for numba and the processor.
    """
    folder = Path(beside.stats.cache_path)
    machine = f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()} {key}"
    stamp = folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.compiled"
    if stamp.exists():
        return
    with _alone(folder / "compiling.lock"):
        if not stamp.exists():
            step()
            stamp.touch()


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


# A forked process has the pool but not its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def over_chunks(n: int, width: int, work: Callable) -> None:
    """Run ``work()(chunk, start, stop)`` for chunks of 0 to n - 1, in torch's number of threads.

    ``work`` is called once in each thread, to make its scratch.
    """
    starts = range(0, n, width)
    tickets = itertools.count()

    def worker():
        task = work()
        while (chunk := next(tickets)) < len(starts):
            task(chunk, starts[chunk], min(starts[chunk] + width, n))

    threads = min(torch.get_num_threads(), len(starts))
    if threads == 1:
        worker()
        return
    others = [_pool(threads - 1).submit(worker) for _ in range(threads - 1)]
    try:
        worker()
    finally:
        wait(others)
    for done in others:
        done.result()
