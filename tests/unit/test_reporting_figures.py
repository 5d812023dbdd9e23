import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from reporting_records import AGGREGATORS, Experiment

from arfl.errors import UserError
from arfl.reporting import collect, figures, frames, paper, style, targets

PAPER = Path(__file__).parents[2] / "workflow" / "resources" / "paper"
SWEEPS_AND_VIEWS = (*Experiment.all_targets(), *targets.VIEWS)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    experiment = Experiment(tmp_path_factory.mktemp("figures"))
    experiment.write()
    for target in (*Experiment.all_targets(), targets.ALL):
        collect.collect(experiment.plan_path, target, manifest(experiment, target))
    return experiment


def manifest(experiment, target):
    folder = targets.KNOWN[target].folder if target in targets.KNOWN else target
    return experiment.run_dir / "collected" / folder / "collected.json"


def made(experiment, target):
    return figures.make(manifest(experiment, target), targets.KNOWN[target], PAPER)


def study(folder, name):
    target = targets.STUDIES[name]
    return figures.make(folder / target.study, target, PAPER)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def words(drawing):
    return f"{drawing.title} {drawing.caption} {drawing.source} {drawing.alt}"


@pytest.mark.parametrize("target", SWEEPS_AND_VIEWS)
def test_every_target_is_drawn_and_says_what_it_shows(experiment, target):
    drawing = made(experiment, target)
    assert "Scale quick" in drawing.source
    assert "Not the paper's experiment" in drawing.source
    assert "digits (stand-in" in drawing.source or target in ("table2", "loan")
    assert len(drawing.alt) > 20
    width, height = drawing.figure.get_size_inches()
    assert 4 < width < 16
    assert 2 < height < 30


def test_files_are_written_whole_and_reproducibly(experiment, tmp_path):
    for name in ("a", "b"):
        figures.draw(
            manifest(experiment, "table4"), targets.KNOWN["table4"], PAPER, tmp_path / name
        )
    for extension in ("png", "pdf", "svg", "json"):
        assert (tmp_path / f"a.{extension}").read_bytes() == (
            tmp_path / f"b.{extension}"
        ).read_bytes()
    pixels = image.imread(tmp_path / "a.png")
    assert pixels.shape[1] >= 900
    assert len(list(tmp_path.iterdir())) == 8


def test_a_line_shows_the_means_of_the_records(experiment):
    figure = made(experiment, "table4").figure
    cells = frames.Collected(manifest(experiment, "table4")).cells.itertuples()
    by_x = {x: [] for x in range(4)}
    for cell in cells:
        if cell.aggregator == "median":
            by_x[cell.x].append(cell.accuracy)
    expected = [100 * np.mean(values) for values in by_x.values()]
    lines = [line.get_ydata() for line in figure.axes[1].get_lines()]
    assert any(len(y) == 4 and np.allclose(y, expected) for y in lines)


def test_the_papers_curve_is_drawn_at_the_same_share_of_attackers(experiment):
    drawing = made(experiment, "figure3")
    printed = paper.load(PAPER, "figure3").values.query("aggregator == 'fedavg'")
    expected = printed[["x", "value"]].to_numpy(float) * [20 / 100, 100]
    lines = [np.array(line.get_xydata()) for line in drawing.figure.axes[0].get_lines()]
    assert any(line.shape == expected.shape and np.allclose(line, expected) for line in lines)
    assert "same share of attackers" in drawing.caption


def test_a_line_without_records_has_the_same_scale_as_the_others(tmp_path):
    experiment = Experiment(tmp_path, targets=("figure3",))
    experiment.write()
    for path in (tmp_path / "results").rglob("fedavg/seed-*.json"):
        path.unlink()
    collect.collect(experiment.plan_path, "figure3", manifest(experiment, "figure3"))
    figure = made(experiment, "figure3").figure
    lines = [line.get_xdata() for line in figure.axes[0].get_lines()]
    assert max(x.max() for x in lines if len(x)) == 2


def test_no_line_leads_over_a_planned_point_without_records(tmp_path):
    experiment = Experiment(tmp_path, targets=("figure3",))
    experiment.write()
    for path in (tmp_path / "results").rglob("attackers-1/fedavg/seed-*.json"):
        path.unlink()
    collect.collect(experiment.plan_path, "figure3", manifest(experiment, "figure3"))
    cells = frames.Collected(manifest(experiment, "figure3")).cells
    numbers = paper.load(PAPER, "figure3")
    sweep = made(experiment, "figure3").figure
    for figure in (sweep, figures.protocols(cells, numbers).figure):
        fedavg, median = figure.axes[:2]
        gaps = [list(np.isnan(np.array(line.get_ydata(), float))) for line in fedavg.get_lines()]
        assert [False, True, False] in gaps
        whole = [np.array(line.get_ydata(), float) for line in median.get_lines()]
        assert any(len(y) == 3 and not np.isnan(y).any() for y in whole)


def test_rules_differ_in_colour_marker_and_grey(experiment):
    looks = style.looks([*AGGREGATORS, "another", "yet_another"])
    assert len({look.color for look in looks.values()}) == 8
    assert len({look.marker for look in looks.values()}) == 8
    # Two rules of nearly the same grey must differ in their line style.
    greys = {a: np.dot(to_rgb(look.color), (0.299, 0.587, 0.114)) for a, look in looks.items()}
    for a in looks:
        for b in looks:
            if a < b and abs(greys[a] - greys[b]) < 0.05:
                assert looks[a].line != looks[b].line, (a, b)


def test_an_attackers_rows_come_last_and_are_marked(experiment):
    axes = made(experiment, "weights").figure.axes
    axis = next(a for a in axes if a.get_title(loc="left").startswith("FoolsGold: MNIST shards"))
    pixels = axis.get_images()[0].get_array()
    assert pixels.shape == (20, 10)
    # The invented weights are 0.2 to 0.3 for the two attackers and 1.0 to 1.1 for the others.
    assert pixels[-2:].max() < 0.5 < pixels[:-2].min()
    assert any(line.get_color() == style.ATTACKER for line in axis.get_lines())


def test_a_grid_without_records_renders_and_says_so(tmp_path):
    empty = Experiment(tmp_path)
    empty.write()
    for path in (tmp_path / "results").rglob("seed-*.json"):
        path.unlink()
    for target in (*Experiment.all_targets(), targets.ALL):
        collect.collect(empty.plan_path, target, manifest(empty, target))
    for target in SWEEPS_AND_VIEWS:
        assert "no record yet" in made(empty, target).source


def curve(residual, lam):
    """Confidence 1 up to lam, then lam / residual down to a tenth, then none."""
    falling = lam / max(abs(residual), lam)
    return falling if falling > 0.1 else 0.0


def test_confidence_curves(tmp_path):
    rows = [
        {"n_clients": n, "lam": lam, "delta": 0.1, "rank": 5, "normalised_residual": e,
         "confidence": curve(e, lam), "corrected": 0}
        for n in (10, 20)
        for lam in (1.0, 2.0)
        for e in range(-40, 41)
    ]  # fmt: skip
    write_rows(tmp_path / "figure2.csv", rows)
    figure = study(tmp_path, "figure2").figure
    titles = [a.get_title(loc="left") for a in figure.axes]
    assert titles == ["K = 10, δ = 0.1", "K = 20, δ = 0.1"]
    x, y = figure.axes[0].get_lines()[1].get_data()
    assert np.allclose(np.interp(range(1, 20), x, y), [curve(e, 2) for e in range(1, 20)])
    # The zones end where the curve does, not at the nearest of its points.
    assert 20 in x
    assert y[x > 20].max() == 0
    zones = [patch.get_extents().transformed(figure.axes[0].transData.inverted())
             for patch in figure.axes[0].patches]  # fmt: skip
    assert [round(zone.x1, 6) for zone in zones] == [2, 20]


def test_the_bound_is_drawn_above_every_simulated_error(tmp_path):
    rows = [
        {"n_clients": k, "n_samples": s, "corruption": a, "delta": d, "error": (1 + a) / k / s,
         "error_mean": 2 / k, "error_median": 1 / s, "error_standard_error": 1 / s,
         "rate": 1 / k + 1 / s + a + d}
        for k in (10, 50, 100)
        for s in (10, 100, 1000)
        for a in (0.0, 0.2, 0.4)
        for d in (0.01, 0.1)
    ]  # fmt: skip
    write_rows(tmp_path / "theory.csv", rows)
    drawing = study(tmp_path, "theory")
    figure = drawing.figure
    assert [a.get_yscale() for a in figure.axes] == ["log"] * 4
    assert [a.get_xscale() for a in figure.axes] == ["log", "log", "linear", "log"]
    for axis in figure.axes:
        bound = axis.get_lines()[-1].get_ydata()
        error = axis.containers[-1].lines[0].get_ydata()
        assert len(bound) == len(error)
        assert (bound >= error).all()
    expected = max(r["error"] / r["rate"] for r in rows)
    assert f"{expected:.2g} × Eq. 14" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert "K = 50, S = 100, α = 0.2, δ = 0.1" in drawing.caption


def test_trigger_shows_both_images(tmp_path):
    clean = np.zeros((28, 28), np.uint8)
    triggered = clean.copy()
    triggered[0, :3] = 255
    np.savez(tmp_path / "figure5.npz", clean=clean, triggered=triggered, note=np.array("a digit"))
    drawing = study(tmp_path, "figure5")
    shown = [a.get_images()[0].get_array() for a in drawing.figure.axes]
    assert np.array_equal(shown[0], clean)
    assert np.array_equal(shown[1], triggered)
    assert "a digit" in drawing.source


@pytest.mark.parametrize("target", ["figure2", "figure5", "table1"])
def test_what_cannot_be_drawn_is_a_clear_error(tmp_path, target):
    with pytest.raises(UserError, match="does not exist"):
        figures.make(tmp_path / "source", targets.KNOWN[target], PAPER)


def test_a_study_of_another_shape_is_a_clear_error(tmp_path):
    (tmp_path / "theory.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="expected columns"):
        study(tmp_path, "theory")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("collect, claims, compare, figures, report, tables", "'torch', 'torchvision', 'numba'"),
        ("targets", "'torch', 'numpy', 'pandas', 'matplotlib', 'jsonschema'"),
    ],
)
def test_reporting_reaches_no_torch_and_the_table_of_targets_nothing_heavy(modules, heavy):
    code = (
        f"import sys; from arfl.reporting import {modules}; "
        f"print([m for m in ({heavy}) if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
