"""What the workflow plans, and how it answers mistakes, without running anything."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from test_faults import six_cells
from test_slurm import eight_cells

CELLS = "results/quick/cells"


def test_paper_scale_plans_every_scenario(project):
    jobs = project.planned("--config", "scale=paper", "--", "figure3")
    assert jobs["train_cell"] == 11 * 6 * 3  # 0..10 attackers, six aggregators, three seeds
    jobs = project.planned("--config", "scale=paper", "--", "table4")
    # Noise 0 is no attack at all: those cells are figure3's with 0 attackers.
    assert jobs["train_cell"] == 4 * 6 * 3
    jobs = project.planned("--config", "scale=paper", "--", "figure3", "table4")
    assert jobs["train_cell"] == (11 + 3) * 6 * 3


@pytest.mark.parametrize(("change", "n_cells"), [(six_cells, 6), (eight_cells, 8)])
def test_the_heavy_tests_have_a_configuration_that_runs(project, change, n_cells):
    project.change_config(change)
    assert project.planned("figure3")["train_cell"] == n_cells


def test_every_named_target_exists_at_quick_scale_without_network(project):
    targets = [
        "table1",
        "table2",
        "table3",
        "table4",
        "loan",
        "figure2",
        "figure3",
        "figure4",
        "figure5",
        "hyperparameters",
        "readings",
        "replacement",
        "batchsize",
        "theory",
        "weights",
        "timing",
    ]
    jobs = project.planned(*targets, "all")
    assert all(jobs[target] == 1 for target in targets)
    output = project.snakemake("-n", *targets)
    for name in ("mnist", "cifar10", "amazon", "loan"):
        assert f"data/raw/{name}/" not in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "scael=quick"], "unknown key scael; did you mean 'scale'?"),
        (["--config", "scale=tiny"], "scale: 'tiny' is not one of"),
        (["tabel1"], "tabel1"),
        ([f"{CELLS}/mnist_shards/none/attackers-0/krum/seed-1.json"], "krum"),
        ([f"{CELLS}/mnist_shards.lr-1.0/none/attackers-0/median/seed-1.json"], "ask for that cell"),
        ([f"{CELLS}/mnist_shards.l-1/none/attackers-0/median/seed-1.json"], "option of a task 'l'"),
        (["--config", "seeds=[100000000000000000000000]"], "seeds.0: 100000000000000000000000 is"),
        (["--config", "checkpoint_minutes=0"], "checkpoint_minutes: 0 is less than"),
    ],
)
def test_mistakes_on_the_command_line(project, arguments, expected):
    output = project.snakemake("-n", *arguments, check=False)
    assert expected in output
    # Where a rule's input is concerned Snakemake adds two lines of its own; it is no crash.
    assert "Traceback (most recent call last)" not in output


def test_unknown_rule_in_the_config(project):
    project.change_config(lambda config: config["aggregators"]["median"].update(rule="medain"))
    output = project.snakemake("-n", check=False)
    assert "aggregators.median.rule is 'medain'" in output
    assert "trimmed_mean" in output  # it lists what there is
    assert "Traceback" not in output


def training_on_slurm(project, *arguments):
    """What a dry run with the SLURM profile says of the first training."""
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    output = project.snakemake("-n", "--profile", "profiles/slurm", *arguments, "--", "table1")
    assert "Group job cells" in output  # several cells, one after another, in one SLURM job
    return output.split("rule train_cell:")[1].split("\n\n")[0]


def test_slurm_profile_asks_for_one_gpu_and_time_within_the_limit(project):
    # The command line's --config leaves the profile's device as it is.
    training = training_on_slurm(project, "--config", "scale=paper")
    assert "gpu=1" in training
    assert "device=cuda" in training
    assert "slurm_partition=gpu" in training
    minutes = yaml.safe_load((project.folder / "config.yaml").read_text())["resources"]
    # Four such cells fill the day that a job may take: there is no room for twice the time.
    assert 4 * minutes["cifar10_dirichlet"]["minutes"] == 1440
    assert f"runtime={minutes['cifar10_dirichlet']['minutes']}," in training


def test_slurm_profile_asks_for_twice_the_time_where_it_fits(project):
    training = training_on_slurm(project)
    minutes = yaml.safe_load((project.folder / "config.yaml").read_text())
    expected = minutes["scales"]["quick"]["resources"]["mnist_dirichlet"]["minutes"]
    assert f"runtime={2 * expected}," in training


def test_slurm_profile_trains_on_cpus_only_where_that_is_asked_for(project):
    training = training_on_slurm(project, "--config", "device=cpu")
    assert "gpu=0" in training
    assert "device=cpu" in training


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "--profile=profiles/slurm",
            "--default-resources",
            "mem_mb=1000",
            "--config",
            "device=auto",
        ],
        ["--executor", "slurm", "--config", "scale=paper"],
        ["-e", "slurm"],
        # a file on the command line replaces the profile's, which says cuda
        ["--profile", "profiles/slurm", "--configfile", "config.yaml", "--config", "scale=paper"],
    ],
)
def test_the_gpu_is_never_lost_in_silence(project, arguments):
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    output = project.snakemake("-n", *arguments, "--", "table1", check=False)
    assert "device is auto, but this node's GPUs say nothing of" in output


def test_an_image_is_no_part_of_what_is_planned(project):
    image = ["--config", "container=docker://ours/arfl:1"]
    output = project.snakemake("-n", "-p", *image, "--", "results/quick/plan.json")
    assert "ours/arfl" not in output.split("python -m arfl plan")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "device=auto"], "device is auto, but this node's GPUs say nothing of"),
        (["--set-resources", "train_cell:mem_mb=1"], "add train_cell:slurm_partition="),
        (
            ["--group-components", "cells=8", "--config", "scale=paper"],
            "8 cells of cifar10_dirichlet in one job take about 2880 minutes, but no job may take",
        ),
    ],
)
def test_what_a_cluster_would_not_serve_is_refused(project, arguments, expected):
    profile = ["--profile", "profiles/slurm"]
    output = project.snakemake("-n", *profile, *arguments, "--", "table1", check=False)
    assert "still says your-account" in output or "device is auto" in output
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    output = project.snakemake("-n", *profile, *arguments, "--", "table1", check=False)
    assert expected in output


def test_braces_in_a_mirrors_name_are_no_wildcards(project):
    mirror = "data_mirror=/somewhere/{else}"
    jobs = project.planned("--config", mirror, "--", "data/prepared/mnist/meta.json")
    assert jobs["download"] == 1


def test_a_report_of_what_there_is_fetches_no_data(project):
    report = ["--config", "scale=paper", "missing_cells=report", "--"]
    jobs = project.planned(*report, "all")
    assert not {"download", "prepare", "partition", "train_cell", "trigger_image"} & set(jobs)
    # The image that an earlier run took is shown, and nothing fetched for it.
    image = project.folder / "results/paper/collected/figure5/figure5.npz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    jobs = project.planned(*report, "figure5")
    assert not {"download", "prepare", "trigger_image"} & set(jobs)
    assert jobs["figures"] == 1


def test_only_what_divides_the_data_makes_another_partition(project):
    def vary(option, values):
        def change(config):
            panel = config["scales"]["quick"]["targets"]["batchsize"][0]
            panel["vary"].update(option=option, values=values)

        return change

    project.change_config(vary("batch_size", [4, 8, 16]))
    assert project.planned("batchsize")["partition"] == 3  # one for each seed
    project.change_config(vary("concentration", [0.1, 0.9]))
    assert project.planned("batchsize")["partition"] == 6


def moved_into(project, name):
    """The project in a folder of that name below its own."""
    folder = project.folder / name
    parts = list(project.folder.iterdir())
    folder.mkdir()
    for part in parts:
        shutil.move(part, folder / part.name)
    project.folder = folder


HOSTILE = ["it's", '"quoted"', "$(touch HACKED)", "`touch HACKED`", "{x} {{y}}", "a & b; c #*"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_run_is_planned_in_a_folder_of_any_name(project, name):
    moved_into(project, name)
    assert project.planned("figure3")["train_cell"] > 1


def test_no_shell_reads_the_folders_name(project):
    top = project.folder
    moved_into(project, " ".join(HOSTILE))
    cell = f"{CELLS}/mnist_shards.rounds-1/gaussian.noise_std-0.5/attackers-2/fedavg/seed-1.json"
    project.snakemake(cell)
    assert (project.folder / cell).stat().st_size > 0
    assert not list(top.rglob("HACKED"))


def test_a_folder_that_python_cannot_search_is_refused(project):
    moved_into(project, "a:b")
    assert "with ':' in its name: rename" in project.snakemake("-n", check=False)


def test_a_home_that_cannot_be_written_is_no_hindrance(project):
    # Not even root can make a folder in a file.
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    assert "train_cell" in project.snakemake("-n", "--quiet=rules", "figure3", **nowhere)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv, of util-linux")
def test_a_folder_that_cannot_be_written_is_one_message(project):
    project.folder.chmod(0o555)
    # Root may write everywhere unless it gives up the right to.
    rights = "-dac_override,-dac_read_search"
    without = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    try:
        result = subprocess.run(
            [*(without if os.geteuid() == 0 else ()), "snakemake", "-n", "figure3"],
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        project.folder.chmod(0o755)
    assert result.returncode == 1
    assert f"cannot write {project.folder}: permission denied; choose a folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_seeds_may_be_given_on_the_command_line(project):
    output = project.snakemake("-n", "--config", "seeds=[2,5]", "--", "figure4")
    assert "seed-2.json" in output
    assert "seed-5.json" in output
    assert "seed-1.json" not in output
    output = project.snakemake("-n", "--config", "seeds=[two]", "--", "figure4", check=False)
    assert "seeds.0: 'two' is not of type 'integer'" in output
    output = project.snakemake("-n", "--config", "target_seeds={figure4: [7]}", "--", "figure4")
    assert "seed-7.json" in output
    assert "seed-1.json" not in output


def imported(paths):
    """Top-level names of all that these modules import, also inside functions."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return found - {"arfl", "__future__"} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["arfl", "report"])
def test_an_environment_has_what_its_jobs_import(project, name):
    source = project.folder / "src/arfl"
    light = [source / f"{part}.py" for part in ("cli", "grid", "record", "seeds", "files")]
    reporting = set((source / "reporting").rglob("*.py"))
    # What reads config.yaml runs beside Snakemake: jobs are given their settings.
    beside = {source / f"{part}.py" for part in ("config", "project", "flower")}
    training = set(source.rglob("*.py")) - reporting - beside
    drawing = {source / "reporting" / f"{part}.py" for part in ("partition_picture", "style")}
    modules = [*light, *reporting] if name == "report" else training | drawing
    packages = {"yaml": "pyyaml", "matplotlib": "matplotlib-base", "sklearn": "scikit-learn"}
    packages |= {"torch": "pytorch", "fastjsonschema": "python-fastjsonschema"}
    environment = yaml.safe_load((project.folder / f"envs/{name}.yaml").read_text())
    listed = {str(line).split()[0] for line in environment["dependencies"]}
    needed = {packages.get(module, module) for module in imported(modules)}
    # These come with PyTorch for GPUs, numba and Jinja.
    assert needed - {"triton", "llvmlite", "markupsafe"} <= listed


def test_environments_are_well_formed(project):
    for path in sorted((project.folder / "envs").glob("*.yaml")):
        environment = yaml.safe_load(path.read_text())
        assert "conda-forge" in environment["channels"]
        assert any(str(d).startswith("python ") for d in environment["dependencies"])


def test_the_graph_in_the_documentation_is_current(project):
    # A clean copy: what has been made already is no part of a graph of what is to be made.
    shutil.copytree(ROOT / "docs", project.folder / "docs")
    page = project.folder / "docs/how-it-works.md"
    before = page.read_text(encoding="utf-8")
    command = [sys.executable, "docs/make_pages.py"]
    subprocess.run(command, cwd=project.folder, env=project.environment, check=True)
    assert page.read_text(encoding="utf-8") == before, "run python docs/make_pages.py"
