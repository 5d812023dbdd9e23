"""What the steps after training notice: deleted, broken and edited files, and new targets."""

import json

CELL = "results/quick/cells/mnist_shards/none/attackers-0/fedavg/seed-1.json"
MANIFEST = "results/quick/collected/figure3/collected.json"


def test_a_deleted_record_is_trained_again_though_the_table_is_there(tiny):
    tiny.snakemake("figure3")
    (tiny.folder / CELL).unlink()
    assert tiny.planned("figure3")["train_cell"] == 1
    output = tiny.snakemake("figure3")
    # What was finished is taken up, not trained.
    log = tiny.folder / "logs/quick/cells/mnist_shards/none/attackers-0/fedavg/seed-1.log"
    assert "not trained again" in log.read_text(), output


def test_a_failed_collect_is_made_up_for(tiny):
    tiny.snakemake("figure3")
    for path in (tiny.folder / MANIFEST).parent.iterdir():
        path.unlink()
    jobs = tiny.planned("figure3")
    assert jobs["collect"] == 1
    assert jobs["tables"] == 1


def test_a_broken_record_is_named_moved_aside_and_trained_again(tiny):
    tiny.snakemake("figure3")
    path = tiny.folder / CELL
    whole = path.read_text()
    path.write_text(whole.replace('"accuracy": 0.', '"accuracy": 0.9', 1))
    output = tiny.snakemake("figure3", "--config", "missing_cells=report")
    assert f"not a record of its cell: {CELL}: the content does not match its digest" in output
    assert path.read_text() != whole
    table = (tiny.folder / "results/quick/tables/figure3.md").read_text()
    assert f"Broken: `{CELL}`: the content does not match its digest" in table
    output = tiny.snakemake("figure3")
    assert "moved to results/quick/aside" in output
    assert json.loads(path.read_text())["rounds"] == json.loads(whole)["rounds"]
    table = (tiny.folder / "results/quick/tables/figure3.md").read_text()
    assert "Broken" not in table


def test_an_edited_frame_never_becomes_a_table(tiny):
    tiny.snakemake("figure3")
    cells = tiny.folder / MANIFEST.replace("collected.json", "cells.csv")
    table = tiny.folder / "results/quick/tables/figure3.md"
    content, tabled = cells.read_text(), table.read_text()
    cells.write_text("\n".join(content.splitlines()[:2]) + "\n")
    output = tiny.snakemake("figure3")
    assert "cells.csv; a run makes it again" in output
    assert cells.read_text() == content
    assert table.read_text() == tabled


def test_a_new_target_is_one_entry_of_the_configuration(tiny):
    def add(config):
        panel = {"task": "mnist_shards", "attack": "label_flip", "n_attackers": [0, 2]}
        config["targets"]["mine"] = [panel]

    original = (tiny.folder / "config.yaml").read_text()
    tiny.change_config(add)
    tiny.snakemake("mine")
    results = tiny.folder / "results/quick"
    assert (results / "tables/mine.md").read_text().startswith("# Mine\n")
    for name in ("mine.svg", "mine.rounds.svg"):
        assert (results / "figures" / name).stat().st_size > 0
    report = tiny.snakemake("-n", "all")
    assert "tables/mine.json" in report
    assert "figures/mine.svg" in report
    (tiny.folder / "config.yaml").write_text(original)
