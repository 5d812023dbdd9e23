"""The sentences that say which data and scale a number really comes from, and names for people."""

import pandas as pd

from arfl.reporting.frames import BROKEN, DIVERGED, DONE, x_text

METRICS = {
    "accuracy": "Accuracy",
    "attack_success_rate": "Attack success rate, as the paper counts",
    "attack_success_rate_excl_target": "Attack success rate, target class left out",
}
COLUMN_METRICS = {
    "accuracy": "Accuracy",
    "attack_success_rate": "Attack success",
    "attack_success_rate_excl_target": "Same, target class left out",
}
_X_LABELS = {
    "n_attackers": "number of attackers",
    "noise_std": "standard deviation σ of the noise",
    "delta": "δ",
    "lam": "λ",
    "buffers": "treatment of the batch-norm statistics",
    "lr_factor": "attackers' learning rate, as a multiple of the honest one",
    "update": "what FoolsGold compares",
    "scale": "scale of the submitted model",
}
_SHORT = {"n_attackers": "attackers", "noise_std": "σ", "delta": "δ", "lam": "λ"}
_RULES = {"fedavg": "FedAvg", "foolsgold": "FoolsGold"}
_PANELS = {
    "backdoor_naive": "naive backdoor",
    "backdoor_replacement": "model replacement",
    "gaussian": "Gaussian noise",
    "alie": "ALIE",
    "ipm": "IPM",
    "min_max": "Min-Max",
    "dba": "DBA",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "amazon": "Amazon",
    "loan": "LOAN",
    "dirichlet": "Dirichlet",
    "iid": "IID",
    "delta": "δ (λ at its default)",
    "lam": "λ (δ at its default)",
    "buffers": "batch-norm statistics",
    "lr_factor": "attackers' learning rate",
    "clients_per_round": "who trains",
    "min_source_share": "what attackers hold of the digit",
    "repeated_median": "Repeated Median's variant",
    "residual_reweighting": "Ours' variant",
    "update": "FoolsGold's updates",
}


def panel_title(panel: str) -> str:
    """A panel's name for people: ``mnist/backdoor_naive`` -> ``MNIST, naive backdoor``."""
    return ", ".join(map(_panel_part, filter(None, panel.split("/"))))


def _panel_part(part: str) -> str:
    if part.isdecimal():
        return counted(int(part), "attacker")
    return _PANELS.get(part, part.replace("_", " "))


def rule_name(rule: str) -> str:
    """A rule of the paper in a sentence: ``trimmed_mean`` -> ``trimmed mean``."""
    return _RULES.get(rule, rule.replace("_", " "))


def task_name(task: str) -> str:
    """A task for people: ``mnist_shards.momentum-0`` -> ``MNIST shards, momentum 0``."""
    base, *changes = task.split(".", maxsplit=1)
    words = [_PANELS.get(word, word) for word in base.split("_")]
    changed = [c.replace("-", " ", 1).replace("_", " ") for c in changes]
    return ", ".join([" ".join(words), *changed])


def x_label(x_name: str) -> str:
    """What is swept, for people."""
    return _X_LABELS.get(x_name, x_name.replace("_", " "))


def scenario(panel: str, x_name: str, x: object) -> str:
    """A panel and a swept value, ``MNIST, attackers = 2``."""
    swept = f"{_SHORT.get(x_name, x_name.replace('_', ' '))} = {x_text(x)}" if x_text(x) else ""
    return ", ".join(filter(None, [panel_title(panel), swept]))


def counted(n: int, noun: str) -> str:
    """A number with its noun, "1 seed" or "3 seeds"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(items: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1] if items else ""]))


def trained(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that have a valid record, diverged ones among them."""
    return cells[cells.state.isin([DONE, DIVERGED])]


def data_sentence(cells: pd.DataFrame) -> str:
    """What was really used: scale, protocol, data with their kind, seeds, and what is missing."""
    if cells.empty:
        return "Nothing is planned here."
    parts = [f"Scale {listed(list(cells.scale.unique()))}", f"protocol {cells.protocol.iloc[0]}"]
    parts.append(_data_phrase(cells) or "no record yet, so no data was used")
    parts.append(f"{counted(cells.seed.nunique(), 'seed')} planned")
    done = (cells.state == DONE).sum()
    if done < len(cells):
        others = [
            f", {n} {state}" for state in (BROKEN, DIVERGED) if (n := (cells.state == state).sum())
        ]
        parts.append(f"{done} of {len(cells)} cells done{''.join(others)}")
    return "; ".join(parts) + "."


def warning(cells: pd.DataFrame) -> str:
    """Why these numbers are not the paper's experiment, by their labels; empty where they may be.

    Whether they are, setting by setting, is the business of `arfl.reporting.evidence`.
    """
    reasons = [f"scale {scale}" for scale in cells.scale.unique() if scale != "paper"]
    protocols = [f"protocol {p}" for p in cells.protocol.unique() if p != "paper"]
    used = trained(cells)
    other = used[used.data_kind != "complete"]
    data = [f"{kind} data" for kind in sorted(set(other.data_kind))]
    whole = set(used.dataset) - set(other.dataset)
    if data and whole and not reasons:
        partly, complete = (
            listed(sorted(map(panel_title, names))) for names in (set(other.dataset), whole)
        )
        reading = f", but not the paper's text ({', '.join(protocols)})" if protocols else ""
        return (
            f"{partly}: not the paper's experiment ({', '.join(data)}), the shape may be compared, "
            f"the numbers not. {complete}: complete data{reading}."
        )
    reasons += data
    if reasons:
        return (
            f"Not the paper's experiment ({', '.join(reasons + protocols)}): "
            "the shape may be compared, the numbers not."
        )
    if protocols:
        return (
            f"Not the paper's text ({', '.join(protocols)}): a difference from the printed numbers "
            "is that of this reading."
        )
    return ""


def comparable(cells: pd.DataFrame) -> bool:
    """Whether a difference from the paper's number says anything: real data at its scale."""
    return (cells.scale == "paper").all() and (trained(cells).data_kind == "complete").all()


def on_stand_ins(cells: pd.DataFrame) -> bool:
    """Whether some cells were trained on data that only stand in for the paper's."""
    return bool((~trained(cells).data_kind.isin(["complete", "sample"])).any())


def mixed_versions(cells: pd.DataFrame) -> str:
    """What differs between records that should agree: code, devices, libraries; else empty."""
    done = trained(cells)
    versions = n_versions(done)
    sentences = []
    if versions > 1:
        sentences.append(f"Records of {versions} versions of the numeric code are mixed.")
    devices = sorted(set(done.device_name.where(done.device_name != "", done.device)))
    if len(devices) > 1:
        sentences.append(f"Records come from several devices: {', '.join(devices)}.")
    if libraries(done).nunique() > 1:
        sentences.append("Records were made with several versions of Python or its libraries.")
    return " ".join(sentences)


def n_versions(cells: pd.DataFrame) -> int:
    """How many versions of the numeric code like cells were trained with, at most; 0 for none."""
    # Network, attack, rule and device decide which code counts: only like cells can disagree.
    models = cells.settings.map(lambda settings: settings["task"].get("model"))
    versions = cells.groupby([models, "attack", "aggregator", "device"]).fingerprint.nunique()
    return int(versions.max()) if len(versions) else 0


def diverged(cells: pd.DataFrame) -> str:
    """A sentence that names the cells whose training diverged, and why; else empty."""
    ended = cells[cells.state == DIVERGED].drop_duplicates("cell_id")
    places = [f"{c.cell_id} {c.diverged}" for c in ended.itertuples()]
    return f"Diverged and in no mean: {'; '.join(places)}." if places else ""


def libraries(cells: pd.DataFrame) -> pd.Series:
    """Python and the libraries of each cell, as text."""
    return pd.Series(
        [
            ", ".join(f"{k} {v}" for k, v in {"Python": python, **(known or {})}.items() if v)
            for python, known in zip(cells.python, cells.libraries, strict=True)
        ],
        index=cells.index,
        dtype=object,
    )


def shared(cells: pd.DataFrame) -> str:
    """Which panels show the very same cells under the names of several datasets; else empty."""
    datasets = cells.groupby("cell_id").dataset.agg(lambda names: tuple(dict.fromkeys(names)))
    groups = sorted(set(datasets[datasets.map(len) > 1]))
    return " ".join(
        f"The same cells are shown for {listed([panel_title(name) for name in group])}."
        for group in groups
    )


def caption(cells: pd.DataFrame) -> str:
    """All of the above in one paragraph."""
    parts = [data_sentence(cells), warning(cells), shared(cells), mixed_versions(cells)]
    parts.append(diverged(cells))
    return " ".join(filter(None, parts))


def _data_phrase(cells: pd.DataFrame) -> str:
    """``digits (stand-in for mnist and cifar10: note)``, one phrase per dataset really used."""
    phrases = []
    keys = ["data_name", "data_kind", "data_note"]
    for (name, kind, note), group in trained(cells).groupby(keys, sort=False):
        names = list(dict.fromkeys(group.dataset))
        role = kind if names == [name] else f"{kind} for {' and '.join(names)}"
        phrases.append(f"{name} ({role}{': ' + note if note else ''})")
    return "data " + ", ".join(phrases) if phrases else ""
