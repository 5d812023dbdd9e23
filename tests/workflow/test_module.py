"""The workflow run from another folder, and as a module of another workflow."""

import os
import shutil
import subprocess

import pytest

USE = """
configfile: "config/config.yaml"


module arfl:
    snakefile:
        {snakefile}
    config:
        config


use rule * from arfl{renamed}


rule mine:
    input:
        "results/quick/collected/figure2/figure2.csv",
        "results/quick/plan.json",
"""


@pytest.fixture
def elsewhere(project, tmp_path_factory, monkeypatch):
    """The project lies where it lay; what runs is in an empty folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    lies = project.folder
    project.folder = tmp_path_factory.mktemp("elsewhere")
    return project, lies


def deploy(folder, lies, snakefile, renamed=""):
    """Lay a folder out as snakedeploy does."""
    for part in ("workflow", "config"):
        (folder / part).mkdir()
    shutil.copy(lies / "config.yaml", folder / "config")
    text = USE.format(snakefile=snakefile, renamed=renamed)
    (folder / "workflow/Snakefile").write_text(text)


def test_it_runs_from_an_empty_folder(elsewhere):
    project, lies = elsewhere
    jobs = project.planned("--snakefile", str(lies / "workflow/Snakefile"))
    assert jobs["complete"] == 1
    assert jobs["train_cell"] > 200
    assert [path.name for path in project.folder.iterdir()] == [".snakemake"]


def test_it_is_a_module_of_another_workflow(elsewhere):
    project, lies = elsewhere
    deploy(project.folder, lies, f'"{lies}/workflow/Snakefile"', " as arfl_*")
    jobs = project.planned()
    assert jobs["arfl_complete"] == jobs["arfl_report"] == 1
    assert jobs["arfl_train_cell"] > 200
    # Its jobs find the package and the paper's numbers where they lie, and leave results here.
    project.snakemake("mine")
    for name in ("collected/figure2/figure2.csv", "plan.json"):
        assert (project.folder / "results/quick" / name).stat().st_size > 0
    assert not (lies / "results").exists()


def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *map(str, arguments)], check=True, capture_output=True)


def test_it_is_a_module_from_a_hosted_repository(elsewhere, tmp_path_factory, monkeypatch):
    project, lies = elsewhere
    git("-C", lies, "init", "--quiet")
    git("-C", lies, "add", "--all")
    git("-C", lies, "commit", "--quiet", "-m", "a")
    git("-C", lies, "tag", "v1")
    # What Snakemake has cloned from GitHub before is not asked for again.
    cache = tmp_path_factory.mktemp("cache")
    clone = "snakemake/snakemake/source-cache/snakemake-git-cache/github.com/owner/arfl"
    git("clone", "--quiet", "--bare", lies, cache / clone)
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(cache))
    shutil.move(lies / "src", cache / "src")  # nothing is read from there
    deploy(project.folder, lies, 'github("owner/arfl", path="workflow/Snakefile", tag="v1")')
    assert project.planned()["train_cell"] > 200
    project.snakemake("mine")
    assert (project.folder / "results/quick/plan.json").stat().st_size > 0
