"""The one table of targets: what each is called, how it is drawn, what it is made of.

A target of config.yaml that has no entry here gets one from its data (`of_plan`): it is drawn as a
sweep if its points have x values and as bars if not, has a table and a second figure by round, and
stands on the page after those that are named here. Standard library only: the Snakefile imports it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True)
class Target:
    """What is known of a target without looking at its records.

    Attributes:
        name: as in config.yaml and in the names of files.
        title: heading of its table, figure and section.
        plot: ``swept``, ``bars``, ``rounds``, ``readings``, a view (``weights``, ``timing``,
            ``partitions``) or a study.
        made_of: ``cells`` of its own, cells of ``all`` targets (a view), or a ``study``.
        table: whether it has a table.
        by_round: whether a second figure shows every round.
        averaged: whether the table has a column for the average over the sweep.
        study: the file that the study writes.
        reads: the collected frames that its figure reads.
    """

    name: str
    title: str
    plot: str
    made_of: str = "cells"
    table: bool = True
    by_round: bool = True
    averaged: bool = False
    study: str = ""
    reads: tuple[str, ...] = ("cells",)

    @property
    def folder(self) -> str:
        """Where what it is drawn from lies below ``collected/``."""
        return ALL if self.made_of == ALL else self.name


def _study(name: str, title: str, file: str) -> Target:
    return Target(name, title, name, "study", False, False, study=file, reads=())


def _view(name: str, title: str, *reads: str, table: bool = False) -> Target:
    return Target(name, title, name, ALL, table, by_round=False, reads=("cells", *reads))


# In the order of the page.
_TABLE = (
    Target("figure3", "Figure 3: label flipping on MNIST (1 → 7)", "swept", averaged=True),
    Target("table1", "Table 1: label flipping on CIFAR-10 (cat → dog)", "swept", averaged=True),
    Target(
        "table2", "Table 2: label flipping on Amazon reviews (all labels)", "swept", averaged=True
    ),
    Target("table3", "Table 3: backdoors on MNIST and CIFAR-10", "bars"),
    Target(
        "figure4",
        "Figure 4: attack success rate per round, naive backdoor on CIFAR-10",
        "rounds",
        table=False,
        by_round=False,
        reads=("cells", "rounds"),
    ),
    Target("loan", "Section 4.3: backdoors on LOAN", "bars"),
    Target("table4", "Table 4: multiplicative Gaussian noise on MNIST", "swept", averaged=True),
    Target(
        "hyperparameters",
        "Appendix A.3: sensitivity to δ and λ; FoolsGold's batch-norm statistics",
        "swept",
    ),
    Target("readings", "Readings of the text beside Figure 3", "readings", by_round=False),
    Target("replacement", "Model replacement by the scale of the submitted model", "swept"),
    Target("batchsize", "The naive backdoor by batch size", "swept"),
    _study("figure2", "Figure 2: parameter confidence against residual", "figure2.csv"),
    _study("theory", "Equation 14: error of a one-parameter model against its bound", "theory.csv"),
    _study("figure5", "Figure 5: an image with the backdoor trigger", "figure5.npz"),
    _view("weights", "Weights given to the clients, round by round", "weights"),
    _view("timing", "Milliseconds per aggregator", table=True),
    _view("partitions", "Partitions of the training data", "partitions"),
)
_BEYOND = (
    Target("adaptive", "Attackers who know residual reweighting", "swept"),
    Target("declared", "Rules told a wrong number of attackers", "swept"),
)
KNOWN = {target.name: target for target in (*_TABLE, *_BEYOND)}
STUDIES = {target.name: target for target in _TABLE if target.made_of == "study"}
VIEWS = {target.name: target for target in _TABLE if target.made_of == ALL}


def of_points(points: Mapping[str, Iterable]) -> dict[str, Target]:
    """Every target of a run, in the order of the page: studies, views, and those with cells.

    Args:
        points: target -> the x of its points; it is swept if any is not None.
    """
    every = {name: _described(name, xs) for name, xs in points.items()} | STUDIES | VIEWS
    order = list(KNOWN)
    return dict(
        sorted(every.items(), key=lambda t: order.index(t[0]) if t[0] in KNOWN else len(order))
    )


def _described(name: str, xs: Iterable) -> Target:
    swept = any(x is not None for x in xs)
    title = name.replace("_", " ").capitalize()
    return KNOWN.get(name) or Target(name, title, "swept" if swept else "bars")


def of_plan(plan: Mapping) -> dict[str, Target]:
    """Every target of a plan, see `of_points`."""
    return of_points({name: [row["x"] for row in rows] for name, rows in plan["targets"].items()})
