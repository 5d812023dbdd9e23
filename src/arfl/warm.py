"""A process that has imported PyTorch and numba, from which short jobs fork instead of importing.

`run` is the client: it hands a command to the *parent*, a process that this module starts when
there is none and that leaves when it has been idle, and waits for the exit status. The parent has
imported and run nothing: it has one thread and no CUDA, so that its forks are as good as fresh
processes. It serves only clients that a fresh process would treat alike: same user, interpreter,
environment, working folder, limits, signals, namespaces and code, all hashed into the name of its
socket. Used where the environment variable ``ARFL_WARM`` is 1, on Linux.

Standard library only, and as little of it as may be: every job imports this.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import cast

VERBS = frozenset({"train", "partition", "figure"})
"""The verbs that import PyTorch or Matplotlib and of which a run has many."""

IDLE_SECONDS = 20.0
"""After so long without a job the parent leaves."""

_WAIT_SECONDS = 60.0  # for the parent's imports, which take 2 to 3 on an idle machine
_REQUEST_SECONDS = 5.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# The parent offers to run a request, and forks only when its client has taken the offer: a client
# that has waited too long or met an error before that runs the command itself, so that none is run
# by both.
_OFFER = _TAKEN = b"+"
_STATUS = struct.Struct("<i")
_NOT_BEGUN = -1  # in place of a status
_LENGTH = struct.Struct("<I")
_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# What shells change from one command to the next and no library looks at.
_VOLATILE = frozenset({"_", "SHLVL", "OLDPWD"})


def _code() -> list:
    """What tells one state of the code from another: our files, and the folders of libraries."""
    files = []
    for folder, _, names in os.walk(_PACKAGE):
        if os.path.basename(folder) != "__pycache__":
            for name in names:
                path = os.path.join(folder, name)
                known = os.stat(path)
                files.append((path, known.st_mtime_ns, known.st_size, known.st_ino))
    # Installing something changes the folder that it is installed in. The first is the working one.
    libraries = [(path, os.stat(path).st_mtime_ns) for path in sys.path[1:] if os.path.isdir(path)]
    return [sorted(files), libraries]


def _circumstances() -> list:
    """What a process inherits and what it does may depend on."""
    mask = os.umask(0o077)
    os.umask(mask)
    process = Path("/proc/self")
    status = (process / "status").read_text(encoding="utf-8").splitlines()
    limits = [name for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
    return [
        [os.getresuid(), os.getresgid(), os.getgroups()],
        [sys.executable, sys.version, sys.flags],
        os.getcwd(),
        sorted(item for item in os.environ.items() if item[0] not in _VOLATILE),
        mask,
        [resource.getrlimit(getattr(resource, name)) for name in limits],
        sorted(os.sched_getaffinity(0)),
        os.getpriority(os.PRIO_PROCESS, 0),
        (process / "cgroup").read_text(encoding="utf-8"),
        [line for line in status if line.startswith(("SigBlk", "SigIgn", "CapEff"))],
        sorted(os.readlink(namespace) for namespace in (process / "ns").iterdir()),
    ]


def _address() -> str:
    """Where the parent for this process listens.

    An abstract name: no file to protect or to clear away, free again when its owner is gone. Any
    user may take one, so both sides look at who the other is.
    """
    state = json.dumps([_circumstances(), _code()])
    return f"\0arfl-{hashlib.sha256(state.encode()).hexdigest()}"


def _is_ours(peer: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] == os.getuid()


# The client


def run(argv: list[str]) -> int | None:
    """Run ``python -m arfl`` with these arguments in a fork of the warm parent.

    Files that the command names, its output and signals (SIGINT, SIGTERM, SIGUSR1) are as if it ran
    here. It is killed when this process dies, but goes on while this process is suspended.

    Args:
        argv: the command line's arguments, the verb first.

    Returns:
        The exit status, 128 + n after death by signal n; None where nothing was begun because
        there is, and can be, no parent: then the caller runs the command itself.
    """
    wanted = os.environ.get("ARFL_WARM") == "1" and argv[:1] and argv[0] in VERBS
    # The parent would outlive its job there, or be killed with a job while it serves another.
    if not wanted or sys.platform != "linux" or "SLURM_JOB_ID" in os.environ:
        return None
    try:
        with _connected(_address()) as parent:
            return _ask(parent, argv)
    except OSError:
        return None


def _connected(address: str) -> socket.socket:
    """A connection to the parent, which is started if there is none.

    Raises:
        OSError: if there is none in the end.
    """
    started = None
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        parent = socket.socket(socket.AF_UNIX)
        try:
            parent.connect(address)
            if _is_ours(parent):
                return parent
            raise PermissionError(errno.EPERM, "the socket is somebody else's")
        except ConnectionRefusedError:
            parent.close()
        except OSError:
            parent.close()
            raise
        # One that left without an error had found another, which may have gone since.
        if started is None or started.poll() == 0:
            started = _start(address)
        elif started.poll():
            raise ChildProcessError(errno.ECHILD, "the parent did not start")
        time.sleep(0.01)
    raise TimeoutError(errno.ETIMEDOUT, "no parent in time")


def _start(address: str):
    """Start a parent in a session of its own."""
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-m", "arfl.warm", address[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _ask(parent: socket.socket, argv: list[str]) -> int | None:
    """Hand the command over and wait for its status; None if it was not begun.

    Raises:
        OSError: if it was not begun either, since the parent is gone or does not answer.
    """
    request = json.dumps([sys.argv[0], *argv]).encode()
    message = _LENGTH.pack(len(request)) + request
    parent.settimeout(_WAIT_SECONDS)
    sent = socket.send_fds(parent, [message], [0, 1, 2])
    parent.sendall(message[sent:])
    if parent.recv(len(_OFFER)) != _OFFER:
        return None
    parent.sendall(_TAKEN)
    # From here on it may have been begun, whatever happens.
    parent.settimeout(None)

    def forward(number, _):
        with contextlib.suppress(OSError):  # The job has ended, and its status is on the way.
            parent.send(bytes([number]))

    handlers = {
        number: signal.signal(number, forward)
        for number in _FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        status = parent.recv(_STATUS.size)
    except OSError:
        status = b""
    if len(status) < _STATUS.size:
        with contextlib.suppress(OSError):
            print("error: the process that ran this was killed; run again", file=sys.stderr)
        return 1
    (ended,) = _STATUS.unpack(status)
    if ended != _NOT_BEGUN:
        return ended
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return None


# The parent


def _check_alone() -> None:
    """Refuse threads, with which forking is not safe.

    Raises:
        RuntimeError: if there are any.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a library has started threads")


def _preload() -> None:
    """Import what jobs import. Nothing here may ask for a GPU.

    Raises:
        RuntimeError: if a library has started threads.
    """
    import importlib

    from arfl import fingerprint, registry
    from arfl.errors import UserError

    training = [
        f"arfl.{folder}.{name}"
        for folder in ("aggregators", "attacks", "networks", "partitions")
        for name in registry.names(folder)
    ]
    kernels = [f"arfl.kernels.{name}_cpu" for name in ("aggregation", "cnn", "fasttext", "loannet")]
    # An environment for reports alone has no PyTorch, and one for training may have no Matplotlib.
    # What fails here fails again where it is needed, with the message that belongs to it.
    for modules in (
        ["numpy"],  # whose BLAS starts threads at once unless it is told not to, as Snakemake does
        ["arfl.cli", "arfl.record", "arfl.progress", "fastjsonschema"],
        ["arfl.cell", "arfl.federation", "arfl.checkpoint", "arfl.numerics", *training],
        ["torch.nested._internal.nested_tensor"],  # imported by the first step backward
        kernels,
        ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf"],
        ["arfl.reporting.figures", "arfl.reporting.partition_picture"],
    ):
        with contextlib.suppress(ImportError, RuntimeError, UserError):
            for module in modules:
                importlib.import_module(module)
        _check_alone()
    if numba := sys.modules.get("numba"):
        numba.njit(lambda: None)()  # its first compilation makes what every loaded kernel needs
        # It keeps what it parses.
        fingerprint.fingerprint("arfl.numerics", "arfl.federation", *training)
    _check_alone()


def serve(name: str) -> tuple[list[str], list[int]] | None:
    """Be the parent for the clients that know this name, until there is no more to do.

    Args:
        name: the address of a client in the same circumstances, without its first character.

    Returns:
        None at the end; in a fork, where it returns too, the job's ``sys.argv`` and its files for
        standard input, output and error.

    Raises:
        RuntimeError: if this process is not what those clients need.
    """
    import gc

    os.close(os.pidfd_open(os.getpid()))  # Linux before 5.3 has none
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0{name}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    # From here on clients wait instead of starting another one.
    listener.listen(128)
    code = _code()
    if _address() != f"\0{name}":
        raise RuntimeError("the circumstances are not the client's")
    _preload()
    # A fork's collector then leaves the pages that it shares alone.
    gc.collect()
    gc.freeze()
    return _Parent(listener, code).loop()


class _Parent:
    """The parent's sockets and jobs."""

    def __init__(self, listener: socket.socket, code: list):
        self._listener, self._code = listener, code
        self._poll = select.poll()  # not epoll, whose set of files a fork shares with its parent
        self._poll.register(listener, select.POLLIN)
        # By the client's file: requests whose clients have not taken the offer yet, with their
        # argv and files; and clients whose jobs run, with the job's id.
        self._offers: dict[int, tuple[socket.socket, list[str], list[int]]] = {}
        self._clients: dict[int, tuple[socket.socket, int]] = {}
        self._jobs: dict[int, tuple[socket.socket, int]] = {}  # by the job's file: with its id

    def loop(self) -> tuple[list[str], list[int]] | None:
        """As `serve`."""
        while ready := self._poll.poll(None if self._jobs or self._offers else 1000 * IDLE_SECONDS):
            for file, _ in ready:
                if file in self._jobs:
                    self._end(file)
                elif file in self._clients:
                    self._hear(file)
                elif file in self._offers:
                    if job := self._begin(file):
                        return job
                elif file == self._listener.fileno():
                    self._offer()
        return None

    def _offer(self) -> None:
        """Take a request, and offer its client to run it."""
        client, _ = self._listener.accept()
        files: list[int] = []
        try:
            client.settimeout(_REQUEST_SECONDS)
            if not _is_ours(client) or _code() != self._code:
                raise PermissionError(errno.EPERM, "not to be served")
            argv = _receive(client, files)
            client.sendall(_OFFER)
        except (OSError, ValueError, struct.error):
            _close(client, files)
            return
        self._offers[client.fileno()] = client, argv, files
        self._poll.register(client, select.POLLIN)

    def _begin(self, file: int) -> tuple[list[str], list[int]] | None:
        """Fork where the offer is taken; what `serve` returns in the fork, None in the parent."""
        client, argv, files = self._offers.pop(file)
        try:
            taken = client.recv(len(_TAKEN)) == _TAKEN
        except OSError:
            taken = False
        if not taken:
            self._poll.unregister(file)
            _close(client, files)
            return None
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # too many processes
            self._poll.unregister(file)
            with contextlib.suppress(OSError):
                client.sendall(_STATUS.pack(_NOT_BEGUN))
            _close(client, files)
            return None
        if pid == 0:
            self._leave(client, parent)
            return argv, files
        for received in files:
            os.close(received)
        job = os.pidfd_open(pid)
        self._jobs[job] = self._clients[file] = (client, pid)
        self._poll.register(job, select.POLLIN)
        return None

    def _leave(self, client: socket.socket, parent: int) -> None:
        """In a fork, close what is the parent's and other jobs', and die with the parent."""
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)
        self._listener.close()
        client.close()
        for job, (other, _) in self._jobs.items():
            os.close(job)
            other.close()
        for waiting, _, files in self._offers.values():
            _close(waiting, files)

    def _hear(self, file: int) -> None:
        """Forward signals that a client sends; kill the job of a client that has died."""
        client, pid = self._clients[file]
        try:
            numbers = client.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self._forget(file)
            with contextlib.suppress(ProcessLookupError):  # It does not lead a group yet.
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        for number in numbers:
            if number in _FORWARDED:
                os.kill(pid, number)

    def _forget(self, file: int) -> None:
        self._poll.unregister(file)
        del self._clients[file]

    def _end(self, job: int) -> None:
        """Pass on the status of a job that has ended."""
        client, pid = self._jobs.pop(job)
        self._poll.unregister(job)
        os.close(job)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if client.fileno() in self._clients:
            self._forget(client.fileno())
            with contextlib.suppress(OSError):  # It died a moment ago.
                client.sendall(_STATUS.pack(status if status >= 0 else 128 - status))
        client.close()


def _close(client: socket.socket, files: list[int]) -> None:
    """Let go of a client and of its standard files."""
    client.close()
    for file in files:
        os.close(file)


def _receive(client: socket.socket, files: list[int]) -> list[str]:
    """A request; the client's standard files are appended to ``files``.

    Raises:
        OSError, ValueError, struct.error: if there is no whole one.
    """
    message, received, _, _ = socket.recv_fds(client, 1 << 16, 3)
    files += received
    (length,) = _LENGTH.unpack(message[: _LENGTH.size])
    message = message[_LENGTH.size :]
    while len(message) < length and (more := client.recv(length - len(message))):
        message += more
    if len(message) != length or len(files) != 3:
        raise ValueError("no whole request")
    return json.loads(message)


def _become(argv: list[str], files: list[int]) -> None:
    """Take the place of the client in a fork, and run its command."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=os.isatty(1))
    sys.argv = argv
    from arfl.cli import main

    sys.exit(main())


if __name__ == "__main__" and (job := serve(sys.argv[1])):
    _become(*job)
