"""One process that has imported PyTorch, from which short jobs fork instead of importing it again.

`run` is the client: it hands a command to the *parent*, a process that this module starts when
there is none and that leaves when it has been idle, and waits for the exit status. The parent has
imported and run nothing: it has one thread and no CUDA, so that its forks are as good as fresh
processes. It serves only clients that a fresh process would treat alike: same user, interpreter,
environment, working folder, limits, control group and code; these are hashed into the name of its
socket. Used where the environment variable ``ARFL_WARM`` is 1, on Linux.

Standard library only, and as little of it as may be: every job imports this.
"""

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time

VERBS = frozenset({"train", "partition", "prepare", "confidence", "theory", "trigger", "figure"})
"""The verbs that import PyTorch or Matplotlib; for others a process of their own is as quick."""

IDLE_SECONDS = 20.0
"""After so long without a job the parent leaves."""

_WAIT_SECONDS = 60.0  # for a parent that is being started; importing takes 2 to 3 on an idle machine
_REQUEST_SECONDS = 5.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_BEGUN = b"+"
_STATUS = struct.Struct("<i")
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
    limits = [
        resource.getrlimit(getattr(resource, name))
        for name in sorted(dir(resource))
        if name.startswith("RLIMIT_")
    ]
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        group = stream.read()
    return [
        sys.executable,
        sys.version,
        os.getcwd(),
        sorted(item for item in os.environ.items() if item[0] not in _VOLATILE),
        mask,
        limits,
        sorted(os.sched_getaffinity(0)),
        os.getpriority(os.PRIO_PROCESS, 0),
        group,
    ]


def _socket_path() -> str:
    """Where the parent for this process listens: in a folder that only its user may enter.

    Raises:
        PermissionError: if the folder is somebody else's, or open to others.
    """
    uid = os.getuid()
    folder = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"arfl-{uid}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == uid
        if not ours or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(errno.EPERM, "not a folder of this user alone", folder) from None
    state = json.dumps([_circumstances(), _code()])
    return os.path.join(folder, hashlib.sha256(state.encode()).hexdigest()[:16])


def _is_ours(peer: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] == os.getuid()


# The client


def run(argv: list[str]) -> int | None:
    """Run ``python -m arfl`` with these arguments in a fork of the warm parent.

    Files that the command names, its output and signals (SIGINT, SIGTERM, SIGUSR1) are as if it ran
    here. It is killed when this process dies.

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
        path = _socket_path()
        with _connected(path) as parent:
            return _ask(parent, argv)
    except OSError:
        return None


def _connected(path: str) -> socket.socket:
    """A connection to the parent, which is started if there is none.

    Raises:
        OSError: if there is none in the end.
    """
    started = None
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        parent = socket.socket(socket.AF_UNIX)
        try:
            parent.connect(path)
            if _is_ours(parent):
                return parent
            raise PermissionError(errno.EPERM, "the socket is somebody else's", path)
        except (FileNotFoundError, ConnectionRefusedError):
            parent.close()
        except OSError:
            parent.close()
            raise
        if started is None:
            started = _start(path)
        elif started:
            gone, status = os.waitpid(started, os.WNOHANG)
            if gone and status:
                raise ChildProcessError(errno.ECHILD, "the parent did not start", path)
            # Without an error it has left the work to another, which came first.
            started = 0 if gone else started
        time.sleep(0.02)
    raise TimeoutError(errno.ETIMEDOUT, "no parent in time", path)


def _start(path: str) -> int:
    """Start a parent in a session of its own; its process id."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "arfl.warm", path],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, f"{path}.log", flags, 0o600),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(*_FORWARDED, signal.SIGHUP),
    )


def _ask(parent: socket.socket, argv: list[str]) -> int | None:
    """Hand the command over and wait for its status; None if it was not begun."""
    request = json.dumps([sys.argv[0], *argv]).encode()
    message = _LENGTH.pack(len(request)) + request
    sent = socket.send_fds(parent, [message], [0, 1, 2])
    parent.sendall(message[sent:])

    def forward(number, _):
        try:
            parent.send(bytes([number]))
        except OSError:
            pass  # It has ended, and its status is on the way.

    before = {}
    for number in _FORWARDED:
        # One that this process was started to ignore stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, forward)
    try:
        answer = b""
        while len(answer) < len(_BEGUN) + _STATUS.size:
            try:
                more = parent.recv(64)
            except ConnectionResetError:
                more = b""
            if not more:
                break
            answer += more
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not answer:
        return None
    if len(answer) < len(_BEGUN) + _STATUS.size:
        print("error: the process that ran this was killed; run again", file=sys.stderr)
        return 1
    (status,) = _STATUS.unpack(answer[len(_BEGUN) :])
    return status if status >= 0 else 128 - status


# The parent


def _lock(path: str) -> int | None:
    """Take the lock that one parent holds for its life; None if another has it."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A parent that leaves takes the file with it: a lock on that one keeps nobody out.
        if os.fstat(lock).st_ino == os.stat(f"{path}.lock").st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _preload() -> None:
    """Import what jobs import. Nothing here may start a thread or ask for a GPU."""
    import contextlib
    import importlib

    from arfl import registry
    from arfl.errors import UserError

    training = [
        f"arfl.{folder}.{name}"
        for folder in ("aggregators", "attacks", "networks", "partitions")
        for name in registry.names(folder)
    ]
    # An environment for reports alone has no PyTorch, and one for training may have no Matplotlib.
    # What fails here fails again where it is needed, with the message that belongs to it.
    for modules in (
        ["arfl.cli", "arfl.record", "arfl.progress", "arfl.grid"],
        ["arfl.cell", "arfl.federation", "arfl.checkpoint", "arfl.numerics", *training],
        ["torch.nested._internal.nested_tensor"],  # imported by the first step backward
        ["arfl.kernels.numba_tools"],
        ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf"],
        ["arfl.reporting.figures", "arfl.reporting.partition_picture"],
    ):
        with contextlib.suppress(ImportError, RuntimeError, UserError):
            for module in modules:
                importlib.import_module(module)


def serve(path: str) -> None:
    """Be the parent for the clients that know this socket, until there is no more to do.

    Args:
        path: from `_socket_path` of a client in the same circumstances.

    Raises:
        RuntimeError: if this process is not what those clients need.
    """
    for name in os.listdir("/proc/self/fd"):
        # What the client had inherited, such as a pipe whose reader waits for its end.
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own
    lock = _lock(path)
    if lock is None:
        return
    code = _code()
    if _socket_path() != path:
        raise RuntimeError("the circumstances are not the client's")
    _preload()
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("importing has started threads, with which forking is not safe")
    if _code() != code:
        raise RuntimeError("the code has changed while it was imported")
    _Parent(path, lock, code).loop()


class _Parent:
    """The parent's sockets and jobs."""

    def __init__(self, path: str, lock: int, code: list):
        import gc
        import selectors

        self._path, self._lock, self._code = path, lock, code
        self._jobs: dict[socket.socket, object] = {}
        # Not epoll, whose set of files a fork shares with its parent.
        self._selector = selectors.PollSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._listener.bind(path)
        self._inode = os.stat(path).st_ino
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, 1, self._accept)
        # A fork's collector then leaves the pages that it shares alone.
        gc.collect()
        gc.freeze()

    def loop(self) -> None:
        """Serve until idle, or until the socket's file is gone or the code has changed."""
        last = time.monotonic()
        while True:
            for key, _ in self._selector.select(timeout=1.0):
                key.data()
            if self._jobs:
                last = time.monotonic()
            elif time.monotonic() - last > IDLE_SECONDS or not self._is_current():
                break
        self._listener.close()
        if self._has_socket():
            for name in (self._path, f"{self._path}.log", f"{self._path}.lock"):
                os.unlink(name)

    def _has_socket(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _is_current(self) -> bool:
        try:
            return self._has_socket() and _code() == self._code
        except FileNotFoundError:  # a file went while it was being looked at
            return False

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        argv, files = None, []
        try:
            client.settimeout(_REQUEST_SECONDS)
            if _is_ours(client) and self._is_current():
                argv, files = _receive(client)
                client.sendall(_BEGUN)
        except (OSError, ValueError, struct.error):
            argv = None
        if argv is None:
            client.close()
        else:
            self._begin(client, argv, files)
        for file in files:
            os.close(file)

    def _begin(self, client: socket.socket, argv: list[str], files: list[int]) -> None:
        import multiprocessing

        def work():
            self._forget()
            client.close()
            _become(argv, files, parent)

        parent = os.getpid()
        job = multiprocessing.get_context("fork").Process(target=work)
        job.start()
        client.setblocking(False)
        self._jobs[client] = job
        self._selector.register(client, 1, lambda: self._hear(client, job))
        self._selector.register(job.sentinel, 1, lambda: self._end(client, job))

    def _forget(self) -> None:
        """Close, in a fork, what belongs to the parent and to other jobs."""
        self._selector.close()
        self._listener.close()
        os.close(self._lock)
        for client in self._jobs:
            client.close()

    def _hear(self, client: socket.socket, job) -> None:
        """Forward signals that the client sends; kill the job of a client that has died."""
        try:
            numbers = client.recv(64)
        except BlockingIOError:
            return
        except OSError:
            numbers = b""
        if not numbers:
            self._selector.unregister(client)
            _kill(job.pid)
        for number in numbers:
            if number in _FORWARDED:
                os.kill(job.pid, number)

    def _end(self, client: socket.socket, job) -> None:
        self._selector.unregister(job.sentinel)
        job.join()
        if client in self._selector.get_map():
            self._selector.unregister(client)
            try:
                client.sendall(_STATUS.pack(job.exitcode))
            except OSError:
                pass  # It died a moment ago.
        job.close()
        del self._jobs[client]
        client.close()


def _receive(client: socket.socket) -> tuple[list[str], list[int]]:
    """A request and the client's standard files."""
    message, files, _, _ = socket.recv_fds(client, 1 << 16, 3)
    try:
        if len(files) != 3:
            raise ValueError("not three files")
        (length,) = _LENGTH.unpack(message[: _LENGTH.size])
        message = message[_LENGTH.size :]
        while len(message) < length:
            more = client.recv(length - len(message))
            if not more:
                raise ValueError("the request ends too early")
            message += more
        argv = json.loads(message)
    except (OSError, ValueError, struct.error):
        for file in files:
            os.close(file)
        raise
    return argv, files


def _kill(pid: int) -> None:
    """Kill a job with what it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # It has not come to lead a group yet.
        os.kill(pid, signal.SIGKILL)


def _become(argv: list[str], files: list[int], parent: int) -> None:
    """Turn this fork into the process that the client's command would have been; ends it."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    sys.argv = argv
    from arfl.cli import main

    sys.exit(main())


if __name__ == "__main__":
    serve(sys.argv[1])
