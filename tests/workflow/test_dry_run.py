"""What the workflow plans, and how it answers mistakes, without running anything."""

import pytest
import yaml


def test_paper_scale_plans_every_scenario(project):
    jobs = project.planned("--config", "scale=paper", "--", "figure3")
    assert jobs["train_cell"] == 11 * 6 * 3  # 0..10 attackers, six aggregators, three seeds
    jobs = project.planned("--config", "scale=paper", "--", "table4")
    # Noise 0 is no attack at all: those cells are figure3's with 0 attackers.
    assert jobs["train_cell"] == 4 * 6 * 3
    jobs = project.planned("--config", "scale=paper", "--", "figure3", "table4")
    assert jobs["train_cell"] == (11 + 3) * 6 * 3


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
        (["results/quick/cells/mnist_shards/none/attackers-0/krum/seed-1.json"], "krum"),
    ],
)
def test_mistakes_on_the_command_line(project, arguments, expected):
    output = project.snakemake("-n", *arguments, check=False)
    assert expected in output
    assert "Traceback" not in output


def test_unknown_rule_in_the_config(project):
    project.change_config(lambda config: config["aggregators"]["median"].update(rule="medain"))
    output = project.snakemake("-n", check=False)
    assert "aggregators.median.rule is 'medain'" in output
    assert "trimmed_mean" in output  # it lists what there is
    assert "Traceback" not in output


def test_slurm_profile_asks_for_one_gpu_and_growing_limits(project):
    output = project.snakemake(
        "-n",
        "--profile",
        "profiles/slurm",
        "--config",
        "scale=paper",
        "device=cuda",
        "--",
        "table1",
    )
    training = output.split("rule train_cell:")[1].split("\n\n")[0]
    assert "gpu=1" in training
    assert "slurm_partition=gpu" in training
    minutes = yaml.safe_load((project.folder / "config.yaml").read_text())["resources"]
    assert f"runtime={2 * minutes['cifar10_dirichlet']['minutes']}" in training
    assert "Group job cells" in output  # several cells, one after another, in one SLURM job


def test_seeds_may_be_given_on_the_command_line(project):
    output = project.snakemake("-n", "--config", "seeds=[2,5]", "--", "figure4")
    assert "seed-2.json" in output
    assert "seed-5.json" in output
    assert "seed-1.json" not in output
    output = project.snakemake("-n", "--config", "seeds=[two]", "--", "figure4", check=False)
    assert "seeds.0: 'two' is not of type 'integer'" in output


def test_environments_are_well_formed(project):
    for path in sorted((project.folder / "envs").glob("*.yaml")):
        environment = yaml.safe_load(path.read_text())
        assert "conda-forge" in environment["channels"]
        assert any(str(d).startswith("python ") for d in environment["dependencies"])
