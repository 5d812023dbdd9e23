"""The report: one HTML page that needs nothing else, made of the files that the steps before wrote.

First what was found: a few sentences and a matrix of the claims over the runs; then the reasoning
for each claim, folded; then every target, and what stands behind the numbers: assumptions,
settings, provenance and the state of every cell. Pictures are embedded, so the page opens from a
file, in a mail or in print. `index` writes the page over several runs.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from arfl.errors import UserError
from arfl.files import read_json, write_text
from arfl.reporting import captions, claims, evidence, targets
from arfl.reporting.claims import UNDECIDED
from arfl.reporting.frames import DONE, Collected, x_text
from arfl.reporting.margins import FAILS, HOLDS, UNCLEAR

_STATES = {"done": "✓", "diverged": "∞", "missing": "·", "broken": "✗"}
_MARKS = {HOLDS: "✓", FAILS: "✗", UNCLEAR: "?"}


def write(
    plan_path: str | Path,
    manifests: Iterable[str | Path],
    ledger: str | Path,
    out_html: str | Path,
    tables: Iterable[str | Path] = (),
    figures: Iterable[str | Path] = (),
    others: Iterable[str | Path] = (),
) -> None:
    """Write the report of one run.

    Args:
        plan_path: the run's plan.
        manifests: the ``collected.json`` of its targets, as far as they have been collected.
        ledger: ``claims.json`` of the run.
        out_html: the page to write.
        tables: ``<target>.json`` of `tables.write`.
        figures: ``<name>.svg`` and ``<name>.json`` of `figures.draw` and `figures.draw_rounds`.
        others: ``claims.json`` of other runs, for the matrix.

    Raises:
        UserError: if a file is missing or has another form.
    """
    plan, own = read_json(plan_path), _ledger(ledger)
    collected = {c.target: c for c in map(Collected, manifests)}
    known = targets.of_plan(plan)
    # The ledger knows whether they are of the scale that they are called.
    cells = _unique([c.cells for c in collected.values()]).assign(scale=own["scale"])
    sections = _sections(known, tables, figures)
    for section in sections:
        there = collected.get(known[section["target"]].folder)
        section["empty"] = there is not None and captions.trained(there.cells).empty
    runs = [own, *(run for run in map(_ledger, others) if run["run"] != own["run"])]
    planned = {row["cell"]["id"] for rows in plan["targets"].values() for row in rows}
    with_cells = [t for t in plan["targets"] if t in collected]
    page = _environment().get_template("report.html.jinja").render(
        plan=plan,
        own=own,
        sentences=findings(own),
        standing=_standing(own, cells),
        summary=captions.data_sentence(cells),
        mixed=captions.mixed_versions(cells),
        runs=[_run_name(run) for run in runs],
        matrix=matrix(runs, of_first=True),
        sections=sections,
        not_collected=[known[t].title for t in plan["targets"] if t not in collected],
        troubles={
            state: of_state.to_dict("records")
            for state, of_state in cells[cells.state != DONE].groupby("state")
        },
        state_tables=[_states(known[t].title, collected[t].cells) for t in with_cells],
        assumptions=plan.get("assumptions", []),
        settings=_settings(cells),
        options={kind: _options(cells, kind) for kind in ("aggregator", "attack")},
        datasets=captions.trained(cells).drop_duplicates("data_checksum").to_dict("records"),
        origins=_origins(captions.trained(cells)),
        n_done=int((cells.state == DONE).sum()),
        n_cells=len(planned),
        minimum_seeds=evidence.MINIMUM_SEEDS,
    )  # fmt: skip
    write_text(out_html, page)


def index(
    ledgers: Iterable[str | Path],
    out_html: str | Path,
    tables: Iterable[str | Path] = (),
    figures: Iterable[str | Path] = (),
) -> None:
    """Write the page over several runs: what each is, the matrix of claims, what spans the runs.

    Args:
        ledgers: ``claims.json`` of each run; its report is expected beside it, and the page above.
        out_html: the page to write.
        tables: of targets that several runs make together, as in `write`.
        figures: likewise.
    """
    paths = list(map(Path, ledgers))
    runs = [_ledger(path) for path in paths]
    rows = [
        {**run, "tally": claims.tally(claims.of_training(run["claims"])),
         "href": f"{path.parent.name}/report.html",
         "has_report": (path.parent / "report.html").exists()}
        for run, path in zip(runs, paths, strict=True)
    ]  # fmt: skip
    page = _environment().get_template("index.html.jinja").render(
        rows=rows, runs=[_run_name(run) for run in runs], matrix=matrix(runs, of_first=False),
        sentences=findings_of(runs),
        sections=_sections(targets.KNOWN, tables, figures),
    )  # fmt: skip
    write_text(out_html, page)


def findings(ledger: Mapping) -> list[str]:
    """What was found, in four sentences, computed from a ledger.

    How many verdicts there are, or what keeps them away; whether residual reweighting is the best
    rule; the clearest contradiction between what was measured and what is claimed; and the
    statements that the paper's own numbers contradict.
    """
    trained = claims.of_training(ledger["claims"])
    own = _own_contradictions(ledger["claims"])
    return [_verdicts(trained), _best(trained), _contradiction(trained), own]


def findings_of(ledgers: Sequence[Mapping]) -> list[str]:
    """What was found over several runs: those with a verdict speak, else the first alone."""
    trained = {_run_name(run): claims.of_training(run["claims"]) for run in ledgers}
    judged = {run: of for run, of in trained.items() if any(map(_decided, of))}
    if not judged:
        return findings(ledgers[0])
    said = [f"{run}: {_verdicts(of)} {_contradiction(of)}" for run, of in judged.items()]
    # The more of them are measured, the more a run has to say on which rule is best.
    run = max(
        judged, key=lambda run: sum(f["says_best"] and f["measured"] != "" for f in judged[run])
    )
    return [*said, f"{run}: {_best(judged[run])}", _own_contradictions(ledgers[0]["claims"])]


def _decided(finding: Mapping) -> bool:
    return finding["verdict"] != UNDECIDED


def _verdicts(trained: Sequence[Mapping]) -> str:
    if any(map(_decided, trained)):
        told = ", ".join(f"{n} {verdict}" for verdict, n in claims.tally(trained).items())
        return f"Of {len(trained)} claims about trained models: {told}."
    return (
        f"None of the {len(trained)} claims about trained models is judged "
        f"({_why_none(trained)}). What the records at hand say of them: {_at_hand(trained)}."
    )


def _at_hand(found: Sequence[Mapping]) -> str:
    states = [f["at_hand"] for f in found]
    counts = {
        "hold": states.count(HOLDS),
        "do not hold": states.count(FAILS),
        "unclear": states.count(UNCLEAR),
        "not enough records": sum(state not in _MARKS for state in states),
    }
    return ", ".join(f"{words}: {n}" for words, n in counts.items() if n)


def _best(found: Sequence[Mapping]) -> str:
    """Whether residual reweighting is the best rule, with the clearest of what was measured."""
    about = [f for f in found if f["says_best"]]
    say = "claim says" if len(about) == 1 else "claims say"
    text = f"{len(about)} {say} that residual reweighting is the best rule ({_at_hand(about)})"
    told = [f for state in (HOLDS, FAILS, UNCLEAR) for f in about if f["at_hand"] == state]
    told.sort(key=lambda f: not _decided(f))
    return f"{text}; for one, {claims.statement(told[0])}." if told else f"{text}."


def matrix(runs: Sequence[Mapping], of_first: bool) -> list[dict]:
    """A row per claim: its words, the paper's own numbers, and each run's mark; verdicts first.

    A mark is framed for a verdict; the words beside it say what was measured and what is claimed. A
    row is clear if a run or the paper's own numbers decide it, or if it is about the best rule.

    Args:
        runs: ledgers, see `arfl.reporting.claims.export`.
        of_first: whether a claim counts as measured by the first run alone, or by any.
    """
    rows = []
    for claim in runs[0]["claims"]:
        cells = []
        for run in runs:
            finding = next((f for f in run["claims"] if f["id"] == claim["id"]), None)
            cells.append({"run": _run_name(run), **_matrix_cell(finding)})
        own = claim["papers_own"]
        mark = {
            "mark": _MARKS.get(own, "–"),
            "word": own,
            "title": claim["papers_numbers"],
            "verdict": "",
        }
        measured = [cell for cell in (cells[:1] if of_first else cells) if cell["sides"]]
        # Where several runs measured it: that with a verdict, or the first.
        told = max(measured, key=lambda cell: cell["verdict"] != "", default=None)
        rows.append(
            {"claim": claim, "papers": mark, "cells": cells, "measured": bool(measured),
             "sides": told["sides"] if told else "", "run": told["run"] if told else "",
             "clear": claim["says_best"] or own == FAILS
             or any(cell["mark"] in (_MARKS[HOLDS], _MARKS[FAILS]) for cell in cells)}
        )  # fmt: skip

    def leads(row: Mapping) -> bool:
        # The theorem has a verdict anywhere, and says nothing of a trained model.
        told = row["cells"][:1] if of_first else row["cells"]
        return row["claim"]["target"] != "theory" and any(cell["verdict"] for cell in told)

    return sorted(rows, key=leads, reverse=True)


def _matrix_cell(finding: Mapping | None) -> dict:
    if finding is None:
        return {"mark": "–", "word": "not in it", "verdict": "", "sides": "", "title": ""}
    state = finding["at_hand"]
    verdict = finding["verdict"] != UNDECIDED
    under = f" under {finding['under']}" if finding["under"] and verdict else ""
    frame = "verdict-under" if under else "verdict-mark"
    title = f"{finding['verdict']}{under}" if verdict else f"{state}; {finding['reason']}"
    sides = f"{finding['measured']}, claimed {finding['claimed']}" if finding["measured"] else ""
    if sides:
        sides = f"{finding['subject']}: {sides}"
    return {
        "mark": _MARKS.get(state, "·"),
        "word": state,
        "verdict": frame if verdict else "",
        "sides": sides,
        "title": title,
    }


def _why_none(found: Sequence[Mapping]) -> str:
    """What keeps verdicts away, each with the number of claims that it comes first for."""
    counts = pd.Series(list(map(_first_obstacle, found)), dtype=object).value_counts()
    if len(counts) == 1:
        return counts.index[0]
    # Other scales and data first: there is then no verdict, however many records there are.
    ordered = sorted(counts.items(), key=lambda row: not row[0].startswith(_TOYS))
    return ", ".join(f"{words} ({n})" for words, n in ordered)


_TOYS = ("scale is", "data:")


def _first_obstacle(finding: Mapping) -> str:
    reasons = finding["reason"].split("; ")
    if toys := [reason for reason in reasons if reason.startswith(_TOYS)]:
        return "; ".join(toys)
    if finding["at_hand"] not in _MARKS or any(" cells missing" in r for r in reasons):
        return "want of records"
    return reasons[0]


def _contradiction(found: Sequence[Mapping]) -> str:
    failing = [f for f in found if f["at_hand"] == FAILS]
    decided = list(filter(_decided, failing))
    if not failing:
        holding = [f for f in found if f["at_hand"] == HOLDS]
        if holding:
            return f"What was measured fits, for one, {claims.statement(holding[0])}."
        return "What was measured neither fits nor contradicts any claim beyond chance."
    return (
        f"What was measured contradicts most clearly {claims.statement((decided or failing)[0])}."
    )


def _own_contradictions(found: Sequence[Mapping]) -> str:
    own = [f for f in found if f["papers_own"] == FAILS]
    checked = sum(f["papers_own"] in _MARKS for f in found)
    if not own:
        return f"The paper's own printed numbers bear out all {checked} claims that they bear on."
    return (
        f"The paper's own printed numbers contradict {len(own)} of the {checked} claims that they "
        f"bear on, such as “{own[0]['quote']}” ({own[0]['where']}): "
        f"{own[0]['papers_subject']}, {own[0]['papers_measured']}, claimed "
        f"{own[0]['papers_claimed']}."
    )


def _standing(ledger: Mapping, cells: pd.DataFrame) -> tuple[str, str]:
    """What this page may be taken for: a class and a sentence, by the obstacles to verdicts."""
    if warning := captions.warning(cells):
        return "stands-not", warning
    verdicts = claims.of_training(ledger["claims"])
    judged = sum(f["verdict"] != UNDECIDED for f in verdicts)
    if judged < len(verdicts):
        return "stands-partly", (
            f"The paper's scale on complete real data, but not the whole experiment: "
            f"{judged} of {len(verdicts)} claims can be judged."
        )
    return "stands", "The paper's experiment: every claim is judged."


def _ledger(path: str | Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != 1 or not content.get("claims"):
        raise UserError(f"{path} is not a ledger; run `python -m arfl claims` again")
    return content


def _run_name(run: Mapping) -> str:
    return run["run"] or "nothing collected"


def _unbroken(value: object) -> object:
    # No line ends between a number and its percent sign. Markup is written as it should be.
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_unbroken,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["claim_name"] = claims.name
    environment.filters["anchor"] = lambda text: text.replace("_", "-")
    # A long identifier may break after its slashes and underscores, and nowhere else.
    environment.filters["breakable"] = lambda text: Markup(
        str(escape(text)).replace("/", "/<wbr>").replace("_", "_<wbr>")
    )
    return environment


def _sections(
    known: Mapping[str, targets.Target],
    tables: Iterable[str | Path],
    figures: Iterable[str | Path],
) -> list[dict]:
    """One per target that has a figure or a table, in the order of the page."""
    read = {Path(path).stem: read_json(path) for path in tables}
    words = {Path(p).stem: read_json(p) for p in figures if Path(p).suffix == ".json"}
    pictures = {}
    for path in map(Path, figures):
        if path.suffix == ".svg":
            content = base64.b64encode(path.read_bytes()).decode("ascii")
            pictures[path.stem] = {"uri": f"data:image/svg+xml;base64,{content}"}
    sections = []
    for name, target in known.items():
        drawn = [
            {**words[stem], **pictures[stem]}
            for stem in (name, f"{name}.rounds")
            if stem in words and stem in pictures
        ]
        table = read.get(name)
        if drawn or table:
            source = table["source"] if table else drawn[0]["source"]
            sections.append(
                {"target": name, "title": target.title, "source": source, "pictures": drawn,
                 "table": table, "empty": False}
            )  # fmt: skip
    return sections


def _unique(several: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each cell once; a view holds them too."""
    if not several:
        raise UserError("nothing has been collected; run `python -m arfl collect` first")
    return pd.concat(several, ignore_index=True).drop_duplicates("cell_id")


def _states(title: str, cells: pd.DataFrame) -> dict:
    """One line per scenario and rule, one column per seed."""
    seeds = sorted(cells.seed.unique())
    lines = []
    where = [
        captions.scenario(*place) for place in zip(cells.panel, cells.x_name, cells.x, strict=True)
    ]
    for (scenario, label), group in cells.assign(where=where).groupby(
        ["where", "label"], sort=False
    ):
        states = dict(zip(group.seed, group.state, strict=True))
        marks = [(states.get(s, ""), _STATES.get(states.get(s, ""), "")) for s in seeds]
        lines.append((scenario, label, marks))
    done = int((cells.state == DONE).sum())
    return {"title": title, "done": done, "planned": len(cells), "seeds": seeds, "lines": lines}


def _settings(cells: pd.DataFrame) -> dict[str, list[tuple[str, str]]]:
    """What each task was really trained with, from the first record of each, as flat pairs."""
    first = captions.trained(cells).drop_duplicates("task")
    return {c.task: list(_flat(c.settings["task"])) for c in first.itertuples()}


def _options(cells: pd.DataFrame, kind: str) -> list[tuple[str, str, str]]:
    """(name, settings, tasks) of every aggregator or attack that the records were made with."""
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    for c in captions.trained(cells).itertuples():
        if c.settings[kind]:
            text = ", ".join(
                f"{k.removeprefix('options.')} {v}" for k, v in _flat(c.settings[kind])
            )
            tasks.setdefault((getattr(c, kind), text), {})[c.task] = None
    return [(name, text, ", ".join(places)) for (name, text), places in sorted(tasks.items())]


def _flat(value: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif entry is not None:
            yield f"{prefix}{key}", x_text(entry) if isinstance(entry, float) else str(entry)


def _origins(cells: pd.DataFrame) -> list[dict]:
    """The distinct origins of the records, with how many cells come from each."""
    keyed = cells.assign(
        libraries=captions.libraries(cells),
        dirty=cells.dirty.map(lambda dirty: dirty is True),
        backends=cells.backends.map(lambda b: ", ".join(f"{k}: {v}" for k, v in (b or {}).items())),
    )
    keys = ["commit", "dirty", "device", "device_name", "backends", "libraries"]
    return [
        {
            "commit": (commit[:12] or "unknown") + (" with local changes" if dirty else ""),
            "device": f"{name} ({device})" + (f"; {backends}" if backends else ""),
            "libraries": libraries,
            "fingerprints": sorted({f[:8] for f in group.fingerprint}),
            "cells": len(group),
        }
        for (commit, dirty, device, name, backends, libraries), group in keyed.groupby(
            keys, sort=False
        )
    ]
