"""Everything that waits for a GPU, in one command of a given length: tests, measurements, cells.

    python benchmarks/on_gpu.py --plan plan.json --data data/prepared --out on-gpu --minutes 25

For a machine with a CUDA device and the package's source, Python 3.11 or newer, torch, NumPy and
SciPy; no network, no Snakemake. plan.json is made where there is all of that, for example by
``snakemake --config scale=paper -- results/paper/plan.json``; the data folder holds one prepared
folder for each dataset, and tasks whose data is missing are left out.

In turn: the tests of the GPU's kernels; records of small cells on the CPU and on the GPU side by
side; seconds of each aggregation rule; seconds a round of each task, beside a plain loop over
clients; one, two and four cells at once. Then, until the time is up, the plan's cells in order of
value: seed by seed, target by target (``--targets``), those first that end in time, as many at once
on the GPU as paid, and one for each spare processor core. What is not finished is saved.

Three files are left in the folder: report.md, measured.json, and cells.zip with records,
checkpoints and logs, up to ``--carry-mb``. A command that finds them goes on from there. A step
that fails or takes too long is noted, and the next begins.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = ("table1", "table3", "figure3", "table2", "loan", "table4", "hyperparameters")
# Longest time of a step as a share of the whole, so that cells have about half.
SHARES = {
    "tests": 0.1, "agreement": 0.08, "aggregate": 0.08, "speed": 0.16, "choices": 0.05,
    "together": 0.08, "speed_cpu": 0.06,
}  # fmt: skip
SLACK = 1.3
"""What a cell may take longer than measured alone: beside others, and with attackers' epochs."""


def environment(device):
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(ROOT / "src"), *filter(None, [inherited])])
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | hidden


class Run:
    """One command's time, folders and findings."""

    def __init__(self, options):
        self.options = options
        self.end = time.monotonic() + 60 * options.minutes
        self.out = options.out
        self.cells = self.out / "cells"
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "cells.zip").exists() and not self.cells.exists():
            with zipfile.ZipFile(self.out / "cells.zip") as packed:
                packed.extractall(self.cells)
        self.cells.mkdir(exist_ok=True)
        self._file = self.out / "measured.json"
        self.measured = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.plan = json.loads(options.plan.read_text())

    def left(self):
        """Seconds until the time is up."""
        return self.end - time.monotonic()

    def note(self, step, result):
        self.measured[step] = result
        self._file.write_text(json.dumps(self.measured, indent=1))
        print(f"{step}: {json.dumps(result)[:300]}", flush=True)

    def seconds_for(self, step):
        return max(5.0, min(SHARES.get(step, 0.04) * 60 * self.options.minutes, self.left()))

    def command(self, step, device, out, *more):
        tiny = ["--tiny"] if self.options.tiny else []
        return [
            *(sys.executable, str(ROOT / "benchmarks/gpu_steps.py"), step, "--plan"),
            *(str(self.options.plan), "--data", str(self.options.data), "--device", device),
            *("--out", str(out), *tiny, *more),
        ]

    def step(self, name, step, device, *more):
        """One measurement, unless an earlier command made it."""
        if "error" not in self.measured.get(name, {"error": ""}):
            return
        out = self.out / f"{name}.json"
        command = self.command(step, device, out, *more)
        failure = run(command, environment(device), self.seconds_for(name))
        self.note(name, {"error": failure} if failure else json.loads(out.read_text()))
        out.unlink(missing_ok=True)


def run(command, env, seconds):
    """Run to the end; None, or what went wrong."""
    try:
        done = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s"
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


def tests(work):
    """The kernels against plain torch, and training against the CPU's; pytest if it is there."""
    device, tiny = work.options.device, work.options.tiny
    checks = [sys.executable, "tests/unit/gpu_checks.py", device]
    env = environment(device)
    env["PYTHONPATH"] += os.pathsep + str(ROOT / "tests/unit")
    if device == "cpu":
        env["TRITON_INTERPRET"] = "1"
    found = {"gpu_checks": run(checks, env, work.seconds_for("tests"))}
    if importlib.util.find_spec("pytest") is not None and not tiny:
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts="]
        suite += ["tests/unit/test_gpu_kernels.py"]
        found["pytest"] = run(suite, environment(device), work.seconds_for("tests"))
    work.note("tests", {name: failure or "passed" for name, failure in found.items()})


def together(work, task, counts):
    """Rounds a second of all processes, by how many there are at once."""
    found = {}
    for n in counts:
        seconds = 1 if work.options.tiny else 8
        outs = [work.out / f"together-{k}.json" for k in range(n)]
        more = ("--task", task, "--seconds", str(seconds))
        device = work.options.device
        workers = [
            subprocess.Popen(
                work.command("rounds", device, out, *more),
                env=environment(device),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for out in outs
        ]
        try:
            ready = [worker.stdout.readline().strip() == "ready" for worker in workers]
            for worker in workers:
                with contextlib.suppress(BrokenPipeError):
                    worker.communicate("go\n", timeout=work.seconds_for("together"))
            if not all(ready) or not all(out.exists() for out in outs):
                found[str(n)] = None
                continue
            results = [json.loads(out.read_text()) for out in outs]
            found[str(n)] = sum(result["rounds"] / result["seconds"] for result in results)
        except subprocess.TimeoutExpired:
            found[str(n)] = None
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            for out in outs:
                out.unlink(missing_ok=True)
    return found


def in_order_of_value(plan, targets, data):
    """The plan's cells with data, each once: by seed, then by target as given, then the rest."""
    known = [target for target in targets if target in plan["targets"]]
    order = known + [target for target in plan["targets"] if target not in known]
    cells = {}
    for place, target in enumerate(order):
        for point in plan["targets"][target]:
            described, settings = point["cell"], plan["settings"][point["settings"]]
            if (data / settings["task"]["data"] / "meta.json").exists():
                value = (described["seed"], place)
                cells.setdefault(described["id"], (value, described, settings))
    chosen = sorted(cells.values(), key=lambda entry: entry[0])
    return [(described, settings) for _, described, settings in chosen]


def seconds_of_cell(measured, device, settings, described):
    """How long a cell will take by what was measured; infinite where nothing was."""
    entry = measured.get("speed" if device != "spare" else "speed_cpu", {})
    entry = entry.get(described["task"], {}) if "error" not in entry else {}
    a_round = entry.get("whole") or entry.get("whole_estimated")
    return float("inf") if a_round is None else SLACK * a_round * settings["task"]["rounds"]


def next_cell(waiting, seconds, left, may_overrun):
    """Place in ``waiting`` of the cell to start: the first to end in time, else the first at all.

    Args:
        waiting: cells in order of value.
        seconds: from a cell to its expected seconds, infinite for cells not to be started here.
        left: seconds until the time is up.
        may_overrun: whether a cell that will not end in time is worth starting.
    """
    expected = [seconds(cell) for cell in waiting]
    for place, one in enumerate(expected):
        if one < left:
            return place
    startable = [place for place, one in enumerate(expected) if one < float("inf")]
    return startable[0] if may_overrun and startable else None


class Worker:
    """A cell in training: `python -m arfl train` in a process of its own."""

    def __init__(self, work, described, settings, device):
        self.id, self.device = described["id"], device
        folder = work.cells
        self.record = folder / f"{self.id}.json"
        meta = work.options.data / settings["task"]["data"] / "meta.json"
        log = folder / f"{self.id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "arfl", "train", "--cell", json.dumps(described)),
            *("--settings", json.dumps(settings), "--data", str(meta)),
            *("--partition", str(partition_of(work, described, settings))),
            *("--device", device, "--checkpoint-minutes", "5"),
            *("--kept", str(folder / "kept" / f"{self.id}.json"), "--out", str(self.record)),
        ]
        with log.open("a") as stream:
            self.process = subprocess.Popen(
                command, env=environment(device), stdout=stream, stderr=stream
            )


def partition_of(work, described, settings):
    """The cell's partition file, made if it is not there."""
    from arfl import dataset, partition

    task = settings["task"]
    name = described["id"].split("/")[0]
    path = work.out / "partitions" / name / f"{described['seed']}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        prepared = dataset.load(work.options.data / task["data"])
        partition.make(prepared, task["partition"], task["n_clients"], described["seed"]).save(path)
    return path


def train_cells(work, at_once, spare):
    """Train cells until the time is up: ``at_once`` on the device, one on each spare core."""
    waiting = [
        cell
        for cell in in_order_of_value(work.plan, work.options.targets, work.options.data)
        if not (work.cells / f"{cell[0]['id']}.json").exists()
    ]
    places = ["device"] * at_once + ["spare"] * spare
    running = {}
    finished, failed = [], []
    # The last seconds are for saving and packing.
    reserve = 8 if work.options.tiny else 45
    while work.left() > reserve:
        for place, kind in enumerate(places):
            if place in running and running[place].process.poll() is not None:
                worker = running.pop(place)
                good = worker.record.exists()
                (finished if good else failed).append(worker.id)
            if place not in running and waiting:
                device = work.options.device if kind == "device" else "cpu"

                def expected(cell, kind=kind):
                    return seconds_of_cell(work.measured, kind, cell[1], cell[0])

                chosen = next_cell(
                    waiting, expected, work.left() - reserve, may_overrun=kind == "device"
                )
                if chosen is not None:
                    described, settings = waiting.pop(chosen)
                    running[place] = Worker(work, described, settings, device)
        if not running:
            break
        time.sleep(0.2)
    for worker in running.values():
        worker.process.send_signal(signal.SIGTERM)
    for worker in running.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=max(1, reserve / 2))
        worker.process.kill()
        worker.process.wait()
        (finished if worker.record.exists() else failed).append(worker.id)
    saved = [one for one in failed if checkpoint_of(work, one).exists()]
    earlier = work.measured.get("cells", {}).get("finished", [])
    work.note(
        "cells",
        {
            "finished": sorted({*earlier, *finished}),
            "saved": saved,
            "failed": [one for one in failed if one not in saved],
            "waiting": len(waiting),
        },
    )


def checkpoint_of(work, cell_id):
    return work.cells / "kept" / f"{cell_id}.checkpoint.npz"


def pack(work):
    """cells.zip from the folder of cells: records, then checkpoints, then logs, while they fit."""
    files = [path for path in work.cells.rglob("*") if path.is_file()]
    # Not the second copies of finished records.
    files = [f for f in files if not (f.suffix == ".json" and "kept" in f.parts[-8:-1])]
    kinds = {".json": 0, ".npz": 1, ".log": 2}
    files.sort(key=lambda path: (kinds.get(path.suffix, 3), path.stat().st_size))
    left_out, packed = [], work.out / "cells.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            if archive.fp.tell() + path.stat().st_size > work.options.carry_mb * 1e6:
                left_out.append(str(path.relative_to(work.cells)))
            else:
                archive.write(path, path.relative_to(work.cells))
    work.note("packed", {"bytes": packed.stat().st_size, "left_out": left_out})
    shutil.rmtree(work.cells)
    shutil.rmtree(work.out / "partitions", ignore_errors=True)


def report(measured):
    """What was measured, as Markdown."""
    lines = ["# On a GPU", "", f"`{json.dumps(measured.get('machine'))}`", ""]

    def table(title, header, rows):
        lines.extend([f"## {title}", "", "| " + " | ".join(header) + " |"])
        lines.append("|" + "---|" * len(header))
        lines.extend("| " + " | ".join(str(value) for value in row) + " |" for row in rows)
        lines.append("")

    def failed(step):
        result = measured.get(step)
        if isinstance(result, dict) and "error" in result:
            lines.extend([f"## {step}: failed", "", "```", result["error"], "```", ""])
        return result is None or (isinstance(result, dict) and "error" in result)

    table("Tests", ("what", "result"), measured.get("tests", {}).items())
    if not failed("agreement"):
        keys = ("same_but_for_rounding", "accuracy", "attack_success_rate", "weights")
        rows = [(task, *(e[key] for key in keys)) for task, e in measured["agreement"].items()]
        table("CPU and GPU records of a small cell: largest differences", ("task", *keys), rows)
    if not failed("aggregate"):
        rows = [
            (e["rule"], e["K"], f"{e['N']:,}", *(f"{1e3 * e[k]:.2f}" for k in ("median", "least")))
            for e in measured["aggregate"]
        ]
        n = {e["n"] for e in measured["aggregate"]}
        title = f"Aggregation, milliseconds, n = {', '.join(map(str, n))}"
        table(title, ("rule", "K", "N", "median", "least"), rows)
        lines += ["Goal: 20 ms for K = 10 and ResNet-18.", ""]
    if not failed("speed"):
        rows = []
        for task, e in measured["speed"].items():
            loop = e.get("training_beside_loop", {})
            whole = e.get("whole") or e.get("whole_estimated")
            mark = "" if e.get("whole") else "~"
            rows.append(
                (
                    task,
                    "" if whole is None else f"{mark}{whole:.3f}",
                    "" if whole is None else f"{mark}{1 / whole:.2f}",
                    f"{loop['ours']:.3f}" if loop else e.get("note", ""),
                    f"{loop['loop']:.3f}" if loop else "",
                    f"{loop['ratio']:.1f}" if loop else "",
                    f"{loop['models_differ_by']:.1g}" if loop else "",
                )
            )
        head = ("task", "s a round", "rounds/s", "capped: ours, s", "loop, s", "ratio", "differ by")
        table("Rounds (capped: one epoch of at most 10 batches)", head, rows)
    if not failed("choices"):
        rows = [
            (model, form, f"{1e3 * seconds:.1f}")
            for model, forms in measured["choices"].items()
            for form, seconds in forms.items()
            if form != "task"
        ]
        table(
            "Forms of the forward pass, milliseconds of two steps", ("network", "form", "ms"), rows
        )
    for task, found in measured.get("together", {}).items():
        rows = [(n, "failed" if r is None else f"{r:.2f}") for n, r in found.items()]
        table(f"Cells at once, {task}", ("processes", "rounds/s of all (capped)"), rows)
    failed("speed_cpu")
    cells = measured.get("cells", {})
    lines += [f"## Cells: {len(cells.get('finished', []))} finished", ""]
    for key in ("finished", "saved", "failed"):
        lines += [f"- {key}: {one}" for one in cells.get(key, [])]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True, help="plan.json of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="folder to leave everything in")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--targets", nargs="*", default=TARGETS, help="most valuable first")
    parser.add_argument("--spare", type=int, help="CPU cores that train cells; default: all but 4")
    parser.add_argument("--carry-mb", type=float, default=15, help="largest size of cells.zip")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: to test this program")
    options = parser.parse_args()
    options.plan, options.data = options.plan.resolve(), options.data.resolve()
    options.out = options.out.resolve()
    sys.path.insert(0, str(ROOT / "src"))

    work = Run(options)
    device = options.device
    work.step("machine", "machine", device)
    if not work.measured.get("tests"):
        tests(work)
    work.step("agreement", "agreement", device)
    work.step("aggregate", "aggregate", device)
    work.step("speed", "speed", device)
    work.step("choices", "choices", device)
    work.step("speed_cpu", "speed", "cpu", "--without-loop")
    if "together" not in work.measured:
        measured = work.measured.get("speed", {})
        found = {}
        for task in [] if "error" in measured else measured:
            if task.startswith(("mnist_shards", "cifar10")):
                found[task] = together(work, task, (1, 2) if options.tiny else (1, 2, 4))
        work.note("together", found)
    best = [
        int(max(found, key=lambda n: found[n] or 0)) for found in work.measured["together"].values()
    ]
    spare = options.spare
    if spare is None:
        spare = max(0, len(os.sched_getaffinity(0)) - 4)
    train_cells(work, min(best, default=1), spare)
    pack(work)
    (work.out / "report.md").write_text(report(work.measured))


if __name__ == "__main__":
    main()
