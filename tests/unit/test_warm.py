"""A job in a fork of the warm parent is to the outside what a process of its own is.

Most tests run the real `arfl.warm` in a package of its own whose verbs report what they see, with
nothing heavy to import; the last trains a cell with all of arfl.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_data

import arfl
from arfl import cli, warm
from arfl.grid import Cell

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "pidfd_open"), reason="only on Linux"
)

PACKAGE = Path(arfl.__file__).parent
CLI = """
import json, os, signal, sys, time
from pathlib import Path

def main():
    verb, action, *rest = sys.argv[1:]
    if action == "status":
        return int(rest[0])
    if action == "append":
        with open(rest[0], "a") as stream:
            print("run", file=stream)
        print("run")
    if action == "raise":
        raise ValueError(rest[0])
    if action == "die":
        os.kill(os.getpid(), int(rest[0]))
    if action == "wait":
        for stop in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(stop, signal.default_int_handler)
        try:
            Path(rest[0]).write_text(f"{os.getpid()} {os.getppid()}")
            time.sleep(60)
        except KeyboardInterrupt:
            print("stopped")
            return 130
    if action == "report":
        status = Path("/proc/self/status").read_text().splitlines()
        json.dump({
            "argv": sys.argv[1:],
            "folder": os.getcwd(),
            "path": sys.path,
            "environment": dict(os.environ),
            "mask": os.umask(0o077),
            "files": sorted(int(name) for name in os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "signals": [line for line in status if line.startswith("Sig")],
            "input": sys.stdin.read(),
            "numpy": "numpy" in sys.modules,
            "parent": os.getppid(),
        }, sys.stdout)
        print("words", file=sys.stderr)
    return 0
"""
CELL = Cell("t", "none", 0, "fedavg", 1).describe()


@pytest.fixture
def folder(tmp_path):
    """A package ``arfl`` with the real client and parent, and verbs that report what they see."""
    package = tmp_path / "arfl"
    package.mkdir()
    for name in (
        "__init__.py",
        "__main__.py",
        "errors.py",
        "fingerprint.py",
        "libraries.py",
        "registry.py",
    ):
        shutil.copy(PACKAGE / name, package)
    code = (PACKAGE / "warm.py").read_text()
    assert "IDLE_SECONDS = 20.0" in code
    (package / "warm.py").write_text(code.replace("IDLE_SECONDS = 20.0", "IDLE_SECONDS = 3.0"))
    (package / "cli.py").write_text(CLI)
    for library in ("torch", "matplotlib"):
        (tmp_path / f"{library}.py").write_text("raise ImportError\n")
    return tmp_path


def environment(folder, **changes):
    """What Snakemake's jobs have, and ARFL_WARM; a change to None takes a variable away."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    left = {"PYTEST_CURRENT_TEST", "SLURM_JOB_ID"}
    inherited = {key: value for key, value in os.environ.items() if key not in left}
    every = inherited | threads | {"PYTHONPATH": str(folder), "PWD": str(folder)}
    every |= {"ARFL_WARM": "1"} | changes
    return {key: value for key, value in every.items() if value is not None}


def start(folder, *arguments, verb="train", changes=None, through=(), **options):
    return subprocess.Popen(
        [*through, sys.executable, "-m", "arfl", verb, *arguments],
        cwd=folder,
        env=environment(folder, **(changes or {})),
        stdin=subprocess.DEVNULL if "stdin" not in options else options.pop("stdin"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where these tests run in the background, SIGINT may be ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def run(folder, *arguments, **options):
    """Exit status, output and errors of a command, as a shell sees them."""
    shell = ("sh", "-c", '"$@"; exit $?', "sh")
    process = start(folder, *arguments, through=shell, **options)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def report(folder, *arguments, **options):
    status, output, errors = run(folder, "report", *arguments, **options)
    assert (status, errors) == (0, b"words\n")
    return json.loads(output)


def is_warm(report):
    return report["numpy"]  # which nothing imports there but the parent


def started(path):
    """The ids of a job that waits and of its parent."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


def ends(pid):
    """Whether a process ends soon."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def address_of(parent):
    return "\0" + Path(f"/proc/{parent}/cmdline").read_text().split("\0")[3]


def test_a_job_ends_as_a_process_of_its_own(folder):
    for words in (["status", "0"], ["status", "2"], ["raise", "why"], ["die", "15"], ["die", "9"]):
        cold = run(folder, *words, changes={"ARFL_WARM": None})
        status, output, errors = run(folder, *words)
        assert (status, output) == cold[:2]
        if words[0] != "die":  # of which the shell says something
            assert errors.splitlines()[-1:] == cold[2].splitlines()[-1:]


HOSTILE = [
    "",
    " ",
    "it's",
    '"',
    "$(touch HACKED)",
    "`id`",
    "a\nb",
    "\u03bb",
    b"\xff\xfe",
    "x" * 100000,
]


def test_a_job_sees_what_a_process_of_its_own_would(folder):
    place = folder / "$(touch HACKED) ; 'x'"
    place.mkdir()
    seen = []
    for switch in ("1", None):
        (folder / "input").write_text("some input")
        with open(folder / "input") as stream:
            changes = {"ARFL_WARM": switch, "SPECIAL": "a\nb"}
            options = {"changes": changes, "stdin": stream, "umask": 0o027}
            shell = ("sh", "-c", 'cd "$0" && exec "$@"', str(place))
            process = start(folder, "report", *HOSTILE, through=shell, **options)
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"words\n")
        seen.append(json.loads(output))
    forked, fresh = seen
    assert is_warm(forked)
    assert not is_warm(fresh)
    assert fresh["argv"] == ["train", "report", *(os.fsdecode(word) for word in HOSTILE)]
    del fresh["environment"]["PWD"], forked["environment"]["PWD"]
    assert forked["environment"].pop("ARFL_WARM") == "1"
    for key in fresh.keys() - {"numpy", "parent"}:
        assert forked[key] == fresh[key], key
    assert not list(folder.rglob("HACKED"))


def test_clients_that_come_together_share_a_parent_that_leaves_when_idle(folder):
    processes = [start(folder, "report") for _ in range(6)]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    (parent,) = {report["parent"] for report in reports}
    assert all(is_warm(report) for report in reports)
    assert report(folder)["parent"] == parent
    # Another folder, environment or limit has another one.
    assert report(folder, changes={"ANY": "1"})["parent"] != parent
    assert report(folder, umask=0o077)["parent"] != parent
    assert ends(parent)


# What a client meets when the machine is busy or is suspended: it is late after its request has
# been sent, with the answer, or has given up when the answer comes.
LATE = {
    "after the request": "socket.send_fds = lambda *a: (send_fds(*a), time.sleep(1))[0]",
    "with the answer": "Socket.recv = lambda *a: (time.sleep(1), recv(*a))[1]",
    "for too long": "Socket.recv = lambda *a: (time.sleep(1), recv(*a), late())[1]",
    "in all": (
        "Socket.sendall = lambda *a: (time.sleep(1), sendall(*a))[1];"
        "socket.send_fds = lambda *a: (send_fds(*a), time.sleep(1))[0];"
        "Socket.recv = lambda *a: (time.sleep(1), recv(*a))[1]"
    ),
}


@pytest.mark.parametrize("late", LATE)
def test_no_command_is_run_by_parent_and_client(folder, late):
    place = folder / "place"  # what is new beside the package is other code, with another parent
    place.mkdir()
    # The delays and a busy machine are no idle time of the parent's that this is about.
    warm = folder / "arfl/warm.py"
    warm.write_text(warm.read_text().replace("IDLE_SECONDS = 3.0", "IDLE_SECONDS = 20.0"))
    parent = report(folder)["parent"]
    code = (
        "import runpy, socket, sys, time\n"
        "class Socket(socket.socket): pass\n"
        "send_fds, recv, sendall = socket.send_fds, Socket.recv, Socket.sendall\n"
        "def late(): raise TimeoutError\n"
        f"socket.socket = Socket\n{LATE[late]}\n"
        "sys.argv[0] = 'arfl'\n"
        "runpy.run_module('arfl', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, "train", "append", str(place / "runs")]
    ran = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, timeout=60, check=True
    )
    assert report(folder)["parent"] == parent  # which has gone on
    assert (place / "runs").read_text() == "run\n"
    assert ran.stdout == b"run\n"


def test_a_parent_that_cannot_fork_leaves_the_work_and_the_signals_to_the_client(folder):
    # As a user who may have no more processes.
    (folder / "arfl/registry.py").write_text(
        "import os\n\n\ndef fork():\n    raise BlockingIOError\n\n\n"
        "os.fork, names = fork, lambda folder: []\n"
    )
    assert not is_warm(report(folder))
    process = start(folder, "wait", str(folder / "pid"))
    assert started(folder / "pid")[0] == process.pid
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"stopped\n", b"")
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_the_job(folder, number):
    process = start(folder, "wait", str(folder / "pid"))
    job, parent = started(folder / "pid")
    assert process.pid not in (job, parent)
    process.send_signal(number)
    assert process.communicate(timeout=60) == (b"stopped\n", b"")
    assert process.returncode == 130
    assert ends(job)


def test_a_job_dies_with_its_client_and_no_other_does(folder):
    # In a folder of its own: what is new beside the package is other code, with another parent.
    place = folder / "ids"
    place.mkdir()
    first, second = (start(folder, "wait", str(place / name)) for name in "ab")
    (job, parent), (other, same) = started(place / "a"), started(place / "b")
    assert parent == same
    first.kill()
    first.communicate(timeout=60)
    assert ends(job)
    assert second.poll() is None
    second.send_signal(signal.SIGTERM)
    assert second.communicate(timeout=60)[0] == b"stopped\n"
    assert ends(other)


def test_the_parents_death_is_reported_and_the_next_command_starts_another(folder):
    process = start(folder, "wait", str(folder / "pid"))
    job, parent = started(folder / "pid")
    os.kill(parent, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == b"error: the process that ran this was killed; run again\n"
    assert ends(job)
    assert is_warm(report(folder))


def test_changed_code_is_never_served_by_an_older_parent(folder):
    before = report(folder)
    address = address_of(before["parent"])
    code = folder / "arfl/cli.py"
    code.write_text(code.read_text().replace('"input"', '"INPUT"'))
    # A client that had looked at the code a moment before it changed:
    with warm._connected(address) as parent, pytest.raises((ConnectionResetError, BrokenPipeError)):
        warm._ask(parent, ["train", "status", "0"])
    after = report(folder)
    assert is_warm(after)
    assert "INPUT" in after
    assert after["parent"] != before["parent"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_neither_served_nor_trusted(folder):
    parent = report(folder)["parent"]
    name = address_of(parent)[1:]
    imports = "import os, socket, sys;"
    become = f"{imports} os.chdir('/'); os.setgroups([]); os.setuid(65534);"
    ask = (
        " s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1]);"
        r"socket.send_fds(s, [b'\x15\0\0\0[\"arfl\", \"train\", \"\"]'], [0, 1, 2]);"
        "s.settimeout(20); print(s.recv(1))"
    )
    asked, root = (
        subprocess.run([sys.executable, "-c", who + ask, name], capture_output=True, check=False)
        for who in (become, imports)
    )
    assert root.stdout == b"b'+'\n"
    refused = (b"ConnectionResetError", b"BrokenPipeError")
    assert asked.stdout == b"b''\n" or any(error in asked.stderr for error in refused)
    assert ends(parent)
    take = (
        f"{become} s = socket.socket(socket.AF_UNIX); s.bind('\\0' + sys.argv[1]);"
        "s.listen(); print('here', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", take, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as taker:
        assert taker.stdout.readline() == b"here\n"
        assert not is_warm(report(folder))


def test_it_is_used_only_where_it_is_asked_for_and_can_be(folder):
    assert is_warm(report(folder))
    assert not is_warm(report(folder, changes={"ARFL_WARM": None}))
    assert not is_warm(report(folder, changes={"ARFL_WARM": "0"}))
    assert not is_warm(report(folder, changes={"SLURM_JOB_ID": "1"}))
    assert not is_warm(report(folder, verb="collect"))


@pytest.mark.parametrize(
    "code",
    [
        "raise KeyError('broken')\n",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "names = lambda folder: []\n",
    ],
    ids=["broken", "thread"],
)
def test_a_parent_that_cannot_be_leaves_the_work_to_the_client(folder, code):
    (folder / "arfl/registry.py").write_text(code)
    assert not is_warm(report(folder))


def test_every_verb_is_one_of_the_command_lines():
    assert all(re.search(rf"\b{verb}\b", cli._parser().format_help()) for verb in warm.VERBS)


def test_a_cell_has_the_same_record_either_way(tmp_path):
    small_data.write_blobs(tmp_path / "data")
    partition = ["--scheme", '{"name": "iid"}', "--n-clients", "4", "--seed", "1"]
    settings = small_data.settings(n_clients=4, partition={"name": "iid"})
    settings |= {"scale": "quick", "protocol": "paper"}
    train = ["--cell", json.dumps(CELL), "--settings", json.dumps(settings), "--device", "cpu"]
    data = ["--data", "data/meta.json"]
    records = []
    for name, switch in (("warm", "1"), ("cold", None)):
        divided = ["--out", f"{name}.npz", "--picture", f"{name}.png"]
        given = ["--partition", f"{name}.npz", "--kept", f"{name}/kept.json"]
        for verb, words in (
            ("partition", [*data, *partition, *divided]),
            ("train", [*data, *train, *given, "--out", f"{name}.json"]),
        ):
            subprocess.run(
                [sys.executable, "-m", "arfl", verb, *words],
                cwd=tmp_path,
                env=environment(PACKAGE.parent, ARFL_WARM=switch),
                check=True,
                capture_output=True,
                timeout=100,
            )
        records.append(json.loads((tmp_path / f"{name}.json").read_text()))
    forked, fresh = records
    assert forked["rounds"]
    varying = {"seconds", "digest", "provenance"}
    assert {k: forked[k] for k in forked.keys() - varying} == {
        k: fresh[k] for k in fresh.keys() - varying
    }
    moment = {"started", "command"}
    for key in fresh["provenance"].keys() - moment:
        assert forked["provenance"][key] == fresh["provenance"][key]
    assert forked["provenance"]["command"] == fresh["provenance"]["command"].replace("cold", "warm")
