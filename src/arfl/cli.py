"""The command line: one verb per workflow rule, each a thin call into the package.

Modules are imported by the verb that needs them, so that a verb of reporting starts without
PyTorch.
"""

import argparse
import json
import logging
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arfl import __version__, registry
from arfl.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: as after ``python -m arfl``; by default the process's own.

    Returns:
        The exit status: 0, or 2 after an error that the user can mend, printed as one message;
        130 after Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = vars(_parser().parse_args(arguments))
    run = options.pop("run")
    # Snakemake stops jobs by SIGTERM, SLURM announces a time limit by SIGUSR1 where asked to: leave
    # as after Ctrl-C, with temporary files removed and the state saved.
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(stop, signal.default_int_handler)
    given = sys.argv[1:] if arguments is None else arguments
    if run is not _status:  # which leaves no log
        logging.info("$ %s", shlex.join(["python", "-m", "arfl", *given]))
    try:
        run(**options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        # Anyone's rule may raise anything; whatever comes from no such file keeps its traceback.
        place = registry.fault(error)
        if place is None:
            raise
        logging.exception("The traceback, for the author of that file:")
        told = " ".join(str(error).split())
        print(f"error: {place}: {type(error).__name__}: {told}", file=sys.stderr)
        return 2
    return 0


def _json_object(text: str) -> dict:
    """JSON, or with @ before it the name of a file of JSON: a command line has its limits."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {error}") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def _cell(text: str) -> dict | str:
    """A cell as JSON, or its id."""
    return _json_object(text) if text.startswith(("{", "@")) else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arfl",
        description="What the workflow's rules run. `arfl verb --help` says what a verb takes.",
    )
    parser.add_argument("--version", action="version", version=f"arfl {__version__}")
    verbs = parser.add_subparsers(metavar="verb", required=True)

    def verb(name: str, run, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run)
        return added

    def configured(add) -> None:
        """The options that say which configuration a cell's id belongs to."""
        add("--configfile", type=Path, nargs="+", default=[], help="laid over config.yaml")
        add("--config", nargs="+", default=[], metavar="KEY=VALUE", help="laid over these")

    add = verb("download", _download, "Fetch and verify a dataset's files.").add_argument
    add("--dataset", required=True)
    add("--sources", type=Path, required=True, help="table of files, URLs and checksums")
    add("--mirror", default="", help="folder to use instead of the network")
    add("--out", type=Path, required=True, help="fetched.json in the dataset's raw folder")

    add = verb("prepare", _prepare, "Turn fetched files into tensors on disk.").add_argument
    add("--dataset", required=True)
    add("--fetched", type=Path, required=True, help="fetched.json of the dataset")
    add("--options", type=_json_object, default={}, help="JSON object or @file")
    add("--out", type=Path, required=True, help="meta.json in the dataset's prepared folder")

    add = verb(
        "partition",
        _partition,
        "Divide a dataset among participants: by a scheme, or as a cell needs it.",
    ).add_argument
    add("--cell", help="a cell's id: the rest follows from config.yaml")
    configured(add)
    add("--data", type=Path, help="meta.json of the prepared data")
    add("--scheme", type=_json_object, help="JSON object or @file")
    add("--n-clients", type=int, help="default: as many as the scheme has")
    add("--seed", type=int)
    add("--out", type=Path, help=".npz file")
    add("--picture", type=Path, help=".png file: participants x classes")

    add = verb(
        "check-options", _check_options, "Check the options of rules before training."
    ).add_argument
    add("--rules", type=_json_object, required=True, help="JSON object: `Grid.rules`")

    add = verb(
        "train",
        _train,
        "Train one cell and write its record. With a cell's id the rest follows from config.yaml.",
    ).add_argument
    add("--cell", type=_cell, required=True, help="its id, or a JSON object or @file that names it")
    configured(add)
    from_cell = " (default: from the cell's id)"
    add("--settings", type=_json_object, help=f"JSON object: `settings` of a record{from_cell}")
    add("--data", type=Path, help=f"meta.json of the prepared data{from_cell}")
    add("--partition", type=Path, help=f".npz file{from_cell}")
    add("--device", choices=("auto", "cpu", "cuda"), help="default: config.yaml's, else auto")
    add("--checkpoint-minutes", type=float, help="how often the state is saved (default: 5)")
    add("--kept", type=Path, help=f".json file: a second copy, taken up again{from_cell}")
    add("--out", type=Path, help=f".json file{from_cell}")

    add = verb(
        "status", _status, "How far the run is: cells done, running, failed, left; time left."
    ).add_argument
    add("targets", nargs="*", help="their cells alone, for example figure3")
    configured(add)
    add("--json", action="store_true", help="every cell, for programs")

    add = verb("pack", _pack, "Put a run's new records into a batch for keeping.").add_argument
    add("--cells", type=Path, required=True, help="folder of records: results/<run>/cells")
    add("--out", type=Path, required=True, help="folder of the run's batches: records/<run>")

    add = verb("restore", _restore, "Packed records back where `train` finds them.").add_argument
    add("--batches", type=Path, required=True, help="folder of the run's batches: records/<run>")
    add("--run-folder", type=Path, required=True, help="results/<run>")
    add("--cells", action="store_true", help="also as finished cells, for tables and figures")

    add = verb("plan", _plan, "Write down which cells each target needs.").add_argument
    add("--config", type=_json_object, required=True, help="JSON object, see config.yaml")
    add("--assumptions", type=Path, required=True, help="CSV: key, tasks, reason")
    add("--beyond", action="store_true", help="the targets beyond the paper instead")
    add("--out", type=Path, required=True, help=".json file")

    add = verb("collect", _collect, "Gather a target's records into CSV.").add_argument
    add("--plan", type=Path, required=True)
    add("--target", required=True)
    add("--out", type=Path, required=True, help="collected.json; the CSV are written beside it")

    add = verb("check", _check, "Try an implementation of an aggregation rule.").add_argument
    add("file", type=Path, help="Python file with a function from (K, N) models to one")
    add("--function", help="its name; default: the only public one")
    add("--reference", help="a rule of ours that it must equal")

    add = verb("leaderboard", _leaderboard, "Rank rules by their worst case.").add_argument
    add("--cells", type=Path, required=True, help="cells.csv of `collect`")
    add("--out", type=Path, required=True, help=".csv file; .md and the heat map go beside it")

    add = verb("confidence", _confidence, "Figure 2's curves, from the aggregator.").add_argument
    add("--out", type=Path, required=True, help=".csv file")

    add = verb("theory", _theory, "Simulate Equation 14's one-parameter model.").add_argument
    add("--out", type=Path, required=True, help=".csv file")

    add = verb(
        "displacement", _displacement, "Attack residual reweighting on drawn models."
    ).add_argument
    add("--out", type=Path, required=True, help=".csv file")

    add = verb("trigger", _trigger, "Figure 5's image, with and without the trigger.").add_argument
    add("--data", type=Path, required=True, help="meta.json of prepared images")
    add("--options", type=_json_object, required=True, help="JSON object: the backdoor's")
    add("--out", type=Path, required=True, help=".npz file")

    for name, run, source, what in (
        ("table", _table, "collected", "Set a target's table beside the paper's."),
        ("figure", _figure, "source", "Draw a target's figure: SVG, PNG, PDF, and its words."),
        ("rounds", _rounds, "collected", "Draw a target's rates after every round, likewise."),
    ):
        add = verb(name, run, what).add_argument
        add("--plan", type=Path, required=True)
        add("--target", required=True)
        add(f"--{source}", type=Path, required=True, help="collected.json, or a study's file")
        add("--paper", type=Path, required=True, help="folder of the paper's numbers")
        add("--out", type=Path, required=True, help="one of the files; its suffix is replaced")

    add = verb("claims", _claims, "Judge the paper's statements on the records.").add_argument
    add("--collected", type=Path, nargs="+", required=True, help="collected.json of each target")
    add("--theory", type=Path, help=".csv file of the simulation")
    add("--paper", type=Path, required=True, help="folder of the paper's numbers and claims")
    add("--out", type=Path, required=True, help="one of the files; its suffix is replaced")

    add = verb("report", _report, "Write the report: one page that opens offline.").add_argument
    add("--plan", type=Path, required=True)
    add("--collected", type=Path, nargs="+", required=True, help="collected.json of each target")
    add("--claims", type=Path, required=True, help="claims.json of the run")
    add("--tables", type=Path, nargs="*", default=(), help=".json files of tables")
    add("--figures", type=Path, nargs="*", default=(), help=".svg and .json files of figures")
    add("--others", type=Path, nargs="*", default=(), help="claims.json of other runs")
    add("--out", type=Path, required=True, help=".html file")

    add = verb("index", _index, "Write the page over several runs.").add_argument
    add("--claims", type=Path, nargs="+", required=True, help="claims.json of each run")
    add("--out", type=Path, required=True, help=".html file, in the folder above the runs'")

    add = verb("render", _render, "All of these again, from what is kept of runs.").add_argument
    add("--runs", type=Path, nargs="+", required=True, help="folders of plan.json and records")
    add("--paper", type=Path, required=True, help="folder of the paper's numbers")
    add("--out", type=Path, required=True, help="folder; a run's files go to <out>/<its name>")

    add = verb("findings", _findings, "What the kept records say, on two screens.").add_argument
    add("--runs", type=Path, nargs="+", required=True, help="folders of plan.json and records")
    add("--paper", type=Path, required=True, help="folder of the paper's numbers")
    add("--out", type=Path, required=True, help=".md file")
    add("--picture", type=Path, required=True, help=".svg file")
    add("--page", type=Path, help=".md file whose block of findings is replaced")

    add = verb("beyond", _beyond, "What the kept records beyond the paper say.").add_argument
    add("--runs", type=Path, nargs="+", required=True, help="folders records/<run>/beyond")
    add("--paper", type=Path, required=True, help="folder of the paper's numbers")
    add("--out", type=Path, required=True, help=".md file")
    add("--pictures", type=Path, required=True, help="folder for .svg files")
    return parser


def _download(dataset: str, sources: Path, mirror: str, out: Path) -> None:
    from arfl import dataset as datasets
    from arfl.files import listing, write_json

    if mirror and Path(mirror).is_dir():
        # As it is before the files are read: what changes meanwhile is noticed later. Hidden, since
        # any other file here may be taken for one of the dataset's.
        state = {"mirror": mirror, "listing": listing(Path(mirror, dataset))}
        write_json(out.parent / ".mirror.json", state)
    datasets.fetch(dataset, out.parent, sources, mirror or None)


def _prepare(dataset: str, fetched: Path, options: dict, out: Path) -> None:
    from arfl import dataset as datasets

    prepared = datasets.prepare(dataset, fetched.parent, out.parent, **options)
    logging.info(
        "%s: %d training and %d test samples (%s)",
        dataset,
        prepared.meta["n_train"],
        prepared.meta["n_test"],
        prepared.meta["note"],
    )


def _partition(
    cell: str | None,
    configfile: list[Path],
    config: list[str],
    data: Path | None,
    scheme: dict | None,
    n_clients: int | None,
    seed: int | None,
    out: Path | None,
    picture: Path | None,
) -> None:
    if cell is not None:
        from arfl import project

        grid = project.grid(configfile, config)
        known = project.cell(grid, cell)
        task = grid.task(known.part("task"))
        scheme, seed = scheme or task["partition"], known.seed if seed is None else seed
        n_clients = task["n_clients"] if n_clients is None else n_clients
        data = data or _prepared(task)
        out = out or Path(grid.partition_path(known))
        picture = picture or out.with_suffix(".png")
        logging.info("%s: from %s to %s", known.part("task"), data, out)
    _need("--cell", data=data, scheme=scheme, seed=seed, out=out, picture=picture)

    from arfl import dataset as datasets
    from arfl import partition
    from arfl.reporting import partition_picture

    dataset = datasets.load(data.parent, verify=True)
    made = partition.make(dataset, scheme, n_clients, seed)
    partition_picture.draw(made.class_counts, made.description, dataset.class_names, picture)
    made.save(out)


def _prepared(task: Mapping) -> Path:
    return Path("data/prepared", task["data"], "meta.json")


def _need(otherwise: str, **options: object) -> None:
    lacking = [f"--{name}" for name, value in options.items() if value is None]
    if lacking:
        raise UserError(f"give {', '.join(lacking)}, or the id of a cell as {otherwise}")


def _check_options(rules: dict) -> None:
    from arfl import aggregation, registry

    wrong = []
    for folder, pairs in rules.items():
        for name, options in pairs:
            try:
                if folder == "aggregators":
                    aggregation.make(name, **options)
                else:
                    registry.check_options(folder, name, options)
            except UserError as error:
                wrong.append(str(error))
    if wrong:
        raise UserError("; ".join([*wrong, "correct config.yaml and run again"]))


def _train(
    cell: dict | str,
    configfile: list[Path],
    config: list[str],
    settings: dict | None,
    data: Path | None,
    partition: Path | None,
    device: str | None,
    checkpoint_minutes: float | None,
    kept: Path | None,
    out: Path | None,
) -> None:
    if isinstance(cell, str):
        from arfl import project

        grid = project.grid(configfile, config)
        known = project.cell(grid, cell)
        settings = settings or grid.settings(known)
        data = data or _prepared(settings["task"])
        partition = partition or Path(grid.partition_path(known))
        kept = kept or Path(grid.record_path(known, "kept"))
        out = out or Path(grid.record_path(known))
        device = device or grid.config["device"]
        checkpoint_minutes = checkpoint_minutes or grid.config["checkpoint_minutes"]
        for what, path in (("data", data), ("partition", partition), ("record", out)):
            logging.info("%s: %s", what, path)
        for path in (data, partition):
            if not path.exists():
                raise UserError(f"{path} does not exist; make it with: snakemake {path}")
        cell = known.describe()
    elif configfile or config:
        raise UserError("--configfile and --config go with a cell's id, not with its JSON")
    _need("--cell", settings=settings, data=data, partition=partition, kept=kept, out=out)

    from arfl import cell as cells

    given: dict[str, Any] = {
        "cell": cell,
        "settings": settings,
        "data": data,
        "partition": partition,
        "device": device or "auto",
        "checkpoint_minutes": checkpoint_minutes or 5.0,
        "kept": kept,
        "out": out,
    }
    # The record keeps the command: the whole of it, which no change of a file makes another one.
    words = [
        (f"--{key.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value))
        for key, value in given.items()
    ]
    sys.argv[1:] = ["train", *(word for pair in words for word in pair)]
    cells.train(**given)


def _status(targets: list[str], configfile: list[Path], config: list[str], **output: bool) -> None:
    from arfl import project, status

    grid = project.grid(configfile, config)
    found = status.look(grid, project.cells(grid, targets))
    print(json.dumps(found, indent=1) if output["json"] else status.text(found))


def _pack(cells: Path, out: Path) -> None:
    from arfl import batches

    batches.pack(cells, out)


def _restore(batches: Path, run_folder: Path, cells: bool) -> None:
    from arfl import batches as packed

    packed.restore(batches, run_folder, cells)


def _plan(config: dict, assumptions: Path, beyond: bool, out: Path) -> None:
    from arfl.files import write_json
    from arfl.grid import Grid
    from arfl.reporting.frames import read_csv

    grid = Grid(config)
    reasons = read_csv(assumptions, ("key", "tasks", "reason")).fillna("").to_dict("records")
    # A user's configuration need not have every task and aggregator of ours.
    assumed = [row | {"value": grid.value(row["key"])} for row in reasons if grid.has(row["key"])]
    write_json(out, grid.plan(beyond) | {"assumptions": assumed})


def _collect(plan: Path, target: str, out: Path) -> None:
    from arfl.reporting import collect

    collect.collect(plan, target, out)


def _check(file: Path, function: str | None, reference: str | None) -> None:
    from arfl import conformance

    print(conformance.report(file, function, reference))


def _leaderboard(cells: Path, out: Path) -> None:
    from arfl.reporting import leaderboard

    leaderboard.write(cells, out.parent)


def _target(plan: Path, name: str):
    from arfl.files import read_json
    from arfl.reporting import targets

    known = targets.of_plan(read_json(plan))
    if name not in known:
        raise UserError(f"{plan} has no target {name!r}; it has {', '.join(known)}")
    return known[name]


def _table(plan: Path, target: str, collected: Path, paper: Path, out: Path) -> None:
    from arfl.reporting import tables

    tables.write(collected, _target(plan, target), paper, out.with_suffix(""))


def _figure(plan: Path, target: str, source: Path, paper: Path, out: Path) -> None:
    from arfl.reporting import figures

    figures.draw(source, _target(plan, target), paper, out.with_suffix(""))


def _rounds(plan: Path, target: str, collected: Path, paper: Path, out: Path) -> None:
    from arfl.reporting import figures

    figures.draw_rounds(collected, _target(plan, target), paper, out.with_suffix(""))


def _write_columns(out: Path, columns: Mapping[str, Sequence]) -> None:
    import pandas as pd

    from arfl.reporting.frames import write_csv

    write_csv(out, pd.DataFrame(columns))


def _confidence(out: Path) -> None:
    from arfl.studies import confidence

    _write_columns(out, confidence.curves())


def _theory(out: Path) -> None:
    from arfl.studies import theory

    _write_columns(out, theory.simulate())


def _displacement(out: Path) -> None:
    from arfl.studies import displacement

    _write_columns(out, displacement.displacements())


def _trigger(data: Path, options: dict, out: Path) -> None:
    from arfl.studies import trigger

    trigger.write(data.parent, options, out)


def _claims(collected: list[Path], theory: Path | None, paper: Path, out: Path) -> None:
    from arfl.reporting import claims

    claims.evaluate(collected, paper, out.with_suffix(""), theory)


def _report(
    plan: Path,
    collected: list[Path],
    claims: Path,
    tables: list[Path],
    figures: list[Path],
    others: list[Path],
    out: Path,
) -> None:
    from arfl.reporting import report

    report.write(plan, collected, claims, out, tables, figures, others)


def _index(claims: list[Path], out: Path) -> None:
    from arfl.reporting import report

    report.index(claims, out)


def _render(runs: list[Path], paper: Path, out: Path) -> None:
    from arfl.reporting import render

    render.render(runs, paper, out)


def _findings(runs: list[Path], paper: Path, out: Path, picture: Path, page: Path | None) -> None:
    from arfl.reporting import findings

    findings.write(runs, paper, out, picture, page)


def _beyond(runs: list[Path], paper: Path, out: Path, pictures: Path) -> None:
    from arfl.reporting import beyond

    beyond.write(runs, paper, out, pictures)
