"""The shipped SLURM profile on a real SLURM of one node, started for the test.

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; skipped elsewhere.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sinfo", "scontrol", "munged")
# Snakemake's job steps lose SLURM_CONF from their environment and look here.
SYSTEM_WIDE = Path("/etc/slurm/slurm.conf")


def why_not():
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root can start a SLURM"
    if SYSTEM_WIDE.exists() or SYSTEM_WIDE.is_symlink():
        return f"this machine has a SLURM of its own: {SYSTEM_WIDE}"
    return None


REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(root, host):
    """slurm.conf of one node with four pretended cores and two pretended GPUs, no accounting."""
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": free_port(),
        "SlurmdPort": free_port(),
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={root}/munge.socket",
        "StateSaveLocation": f"{root}/state",
        "SlurmdSpoolDir": f"{root}/spool",
        "SlurmctldPidFile": f"{root}/slurmctld.pid",
        "SlurmdPidFile": f"{root}/slurmd.pid",
        "SlurmctldLogFile": f"{root}/slurmctld.log",
        "SlurmdLogFile": f"{root}/slurmd.log",
        # No control groups: the test may run in a container.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SchedulerParameters": "sched_interval=2,bf_interval=2",
        "SlurmdParameters": "config_overrides",
        "GresTypes": "gpu",
        # What asks for no memory would get all of it.
        "DefMemPerCPU": 200,
        "MinJobAge": 600,
    }
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    text += f"NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN\n"
    return text + "".join(
        f"PartitionName={name} Nodes={host} Default={default} MaxTime=01:00:00 State=UP\n"
        for name, default in (("cpu", "YES"), ("gpu", "NO"))
    )


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """A running SLURM; `scontrol` and Snakemake find it."""
    root = tmp_path_factory.mktemp("slurm")
    root.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    (root / "slurm.conf").write_text(configuration(root, host))
    # A GPU is any device file, as far as SLURM can see.
    (root / "gres.conf").write_text(
        "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
    )
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    monkeypatch.setenv("SLURM_CONF", str(root / "slurm.conf"))
    had_folder = SYSTEM_WIDE.parent.exists()
    SYSTEM_WIDE.parent.mkdir(exist_ok=True)
    links = [SYSTEM_WIDE, SYSTEM_WIDE.with_name("gres.conf")]
    for link in links:
        link.symlink_to(root / link.name)
    munged = [
        "munged", "--foreground", "--force", f"--socket={root}/munge.socket", f"--key-file={key}",
        f"--pid-file={root}/munged.pid", f"--log-file={root}/munged.log",
        f"--seed-file={root}/munge.seed",
    ]  # fmt: skip
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            with open(root / f"{command[0]}.log", "a") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        deadline = time.monotonic() + 30
        while states() != {"idle"}:
            assert time.monotonic() < deadline, "".join(
                path.read_text() for path in root.glob("*.log")
            )
            time.sleep(0.5)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        for link in links:
            link.unlink()
        if not had_folder:
            SYSTEM_WIDE.parent.rmdir()


def states():
    command = ["sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def submitted():
    """What SLURM was asked for, a text for each job."""
    command = ["scontrol", "--details", "--oneliner", "show", "jobs"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("JobId=")]


def test_the_profile_trains_cells_together_and_asks_for_gpus(cluster, project):
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    profile = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]
    project.snakemake(*profile, "--config", "device=cpu", "seeds=[1]", "--", "table2")
    table = (project.folder / "results/quick/tables/table2.csv").read_text()
    assert "residual_reweighting" in table
    cells = list((project.folder / "results/quick/cells/amazon_iid").rglob("seed-1.json"))
    assert len(cells) == 12
    training = [job for job in submitted() if "Partition=gpu" in job]
    assert len(training) == 3  # four cells each
    assert all("JobState=COMPLETED" in job for job in training)
    assert not any("gres:gpu" in job for job in training)

    # As shipped it asks for a GPU, which is only pretended here: one clear message, no record.
    cell = "results/quick/cells/amazon_iid/none/attackers-0/median/seed-2.json"
    output = project.snakemake(*profile, "--retries", "1", "--", cell, check=False)
    assert "device is cuda, but PyTorch finds no usable GPU here" in output
    assert not (project.folder / cell).exists()
    failed = [job for job in submitted() if "JobState=FAILED" in job]
    assert len(failed) == 2
    assert all("TresPerJob=gres:gpu:1" in job for job in failed)
    # The second attempt asks for more time.
    assert {"TimeLimit=00:10:00" in job for job in failed} == {True, False}
