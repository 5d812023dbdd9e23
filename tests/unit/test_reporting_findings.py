"""The findings: regenerated from the committed records, and recomputed where they say something."""

import functools
import json
import lzma
import re
import shutil
import statistics
from pathlib import Path

import pytest

from arfl.cli import main
from arfl.errors import UserError
from arfl.reporting import collect, findings
from arfl.reporting.frames import Collected

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper"
RUNS = [ROOT / "records" / name for name in ("paper", "paper-released")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The committed records' findings, made again beside a copy of the page."""
    folder = tmp_path_factory.mktemp("findings")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "README.md", folder)
    page, out = folder / "README.md", folder / "docs" / "findings.md"
    picture = folder / "docs" / "figures" / "figure3.svg"
    arguments = ["--runs", *map(str, RUNS), "--paper", str(PAPER), "--out", str(out)]
    assert main(["findings", *arguments, "--picture", str(picture), "--page", str(page)]) == 0
    return folder


@pytest.mark.parametrize("name", ["docs/findings.md", "README.md"])
def test_the_committed_page_is_what_the_committed_records_give(written, name):
    made, committed = ((at / name).read_text(encoding="utf-8") for at in (written, ROOT))
    assert made == committed, "run `make figures` and commit what it changes"


def test_the_findings_fit_on_two_screens_and_link_to_what_is_there(written):
    text = (written / "docs/findings.md").read_text(encoding="utf-8")
    # Without what a reader must open; two screens hold about 900 words.
    shown = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert len(shown.splitlines()) < 120
    assert len(re.sub(r"!\[.*?\]\(.*?\)", "", shown).split()) < 900
    assert "](figures/figure3.svg)" in text
    assert (ROOT / "docs/figures/figure3.svg").stat().st_size > 10_000
    assert " nan" not in text


@functools.cache
def committed(run):
    """Every record of a run, read by the standard library alone."""
    found = {}
    for path in sorted(run.glob("*.jsonl.xz")):
        for line in lzma.decompress(path.read_bytes()).decode().splitlines():
            content = json.loads(line)
            found[content["cell"]["id"]] = content
    return found


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_numbers_of_cells_and_of_equal_pairs_are_those_of_the_records(written, run):
    text = (written / "docs/findings.md").read_text(encoding="utf-8")
    records = committed(run)
    plan = json.loads((run / "plan.json").read_text())
    planned = {row["cell"]["id"] for rows in plan["targets"].values() for row in rows}
    done = planned & {name for name, r in records.items() if r["diverged"] is None}
    # One that diverged has a record too.
    n_recorded, protocol = len(planned & set(records)), plan["protocol"]
    assert f"{n_recorded} of {len(planned)} cells under protocol {protocol}" in text
    equal = pairs = 0
    rates = ("accuracy", "attack_success_rate", "attack_success_rate_excl_target")
    for name in sorted(done):
        other = name.replace("/repeated_median/", "/median/")
        if "/repeated_median/" in name and other in done:
            one, two = (
                [[e[r] for r in rates] for e in records[n]["rounds"]] for n in (name, other)
            )
            pairs, equal = pairs + 1, equal + (one == two)
    if pairs:
        assert f"{equal} of {pairs} like cells" in text


def test_a_floor_is_the_mean_over_the_seeds_of_the_rule_with_the_least_success(tmp_path):
    records = [r for r in committed(RUNS[1]).values() if r["cell"]["attack"] == "backdoor_naive"]
    by_rule = {}
    for content in records:
        last = content["rounds"][-1]
        rates = last["attack_success_rate"], last["attack_success_rate_excl_target"]
        by_rule.setdefault(content["cell"]["aggregator"], []).append(rates)
    least = min(by_rule.values(), key=lambda rates: statistics.fmean(r[1] for r in rates))
    manifest = tmp_path / "collected.json"
    packed = {r["cell"]["id"]: json.dumps(r) for r in records}
    collect.collect(RUNS[1] / "plan.json", "loan", manifest, packed)
    found = findings.floors(Collected(manifest).cells)
    row = found[found.attack == "backdoor_naive"].iloc[0]
    assert row.n_seeds == len(least) == 3
    assert row.counted == pytest.approx(statistics.fmean(r[0] for r in least))
    assert row.left_out == pytest.approx(statistics.fmean(r[1] for r in least))
    assert row.left_out_std == pytest.approx(statistics.stdev(r[1] for r in least))


def test_what_is_no_run_and_no_page_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no run at scale paper"):
        findings.write([ROOT / "records/quick"], PAPER, tmp_path / "f.md", tmp_path / "f.svg")
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(UserError, match="has no block from <!-- findings: begin"):
        findings.write(RUNS[:1], PAPER, tmp_path / "f.md", tmp_path / "f.svg", page)
