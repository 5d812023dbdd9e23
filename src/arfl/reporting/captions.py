"""Titles, and the sentences that say which data and scale a number really comes from."""

from collections.abc import Iterable, Sequence

from arfl.reporting.collect import CellRow

TITLES = {
    "figure2": "Figure 2: parameter confidence against residual",
    "figure3": "Figure 3: label flipping on MNIST (1 → 7)",
    "figure4": "Figure 4: attack success rate per round, naive backdoor on CIFAR-10",
    "figure5": "Figure 5: an image with the backdoor trigger",
    "table1": "Table 1: label flipping on CIFAR-10 (cat → dog)",
    "table2": "Table 2: label flipping on Amazon reviews (all labels)",
    "table3": "Table 3: backdoors on MNIST and CIFAR-10",
    "table4": "Table 4: multiplicative Gaussian noise on MNIST",
    "loan": "Section 4.3: backdoors on LOAN",
    "hyperparameters": "Appendix A.3: sensitivity to δ and λ; FoolsGold's batch-norm statistics",
    "theory": "Equation 14: error of a one-parameter model against its bound",
    "weights": "Weights given to the clients, round by round",
    "timing": "Seconds per aggregator",
}
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
X_LABELS = {
    "n_attackers": "number of attackers",
    "noise_std": "standard deviation σ of the noise",
    "delta": "δ",
    "lam": "λ",
    "buffers": "treatment of the batch-norm statistics",
}
PANELS = {
    "backdoor_naive": "naive backdoor",
    "backdoor_replacement": "model replacement",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "amazon": "Amazon",
    "loan": "LOAN",
    "delta": "δ (λ at its default)",
    "lam": "λ (δ at its default)",
    "buffers": "FoolsGold",
}


def title(target: str) -> str:
    """The target's title; its name for one that has none."""
    return TITLES.get(target, target)


def panel_title(panel: str) -> str:
    """A panel's name for people: ``mnist/backdoor_naive`` -> ``MNIST, naive backdoor``."""
    return ", ".join(PANELS.get(part, part) for part in panel.split("/"))


def x_text(x: float | str | None) -> str:
    """A swept value as short text."""
    if isinstance(x, str):
        return x
    return "" if x is None else f"{x:g}"


def counted(n: int, noun: str) -> str:
    """A number with its noun, "1 seed" or "3 seeds"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def faithful(cells: Iterable[CellRow]) -> bool:
    """Whether all cells ran at the paper's scale on complete real data (missing ones aside)."""
    return all(c.scale == "paper" and (not c.done or c.data_kind == "complete") for c in cells)


def data_sentence(cells: Sequence[CellRow]) -> str:
    """What was really used: scale, protocol, data with their kind, seeds, and what is missing."""
    if not cells:
        return "Nothing is planned here."
    parts = [f"Scale {cells[0].scale}", f"protocol {cells[0].protocol}"]
    parts.append(_data_phrase(cells) or "no record yet, so no data was used")
    parts.append(f"{counted(len({c.seed for c in cells}), 'seed')} planned")
    done = sum(c.done for c in cells)
    if done < len(cells):
        broken = sum(c.state == "broken" for c in cells)
        diverged = sum(c.state == "diverged" for c in cells)
        counts = [f"{done} of {len(cells)} cells done"]
        counts += [f"{broken} broken"] if broken else []
        counts += [f"{diverged} diverged"] if diverged else []
        parts.append(", ".join(counts))
    return "; ".join(parts) + "."


def warning(cells: Sequence[CellRow]) -> str:
    """Why these numbers are not the paper's experiment; empty when they are."""
    if faithful(cells):
        return ""
    reasons = []
    if cells[0].scale != "paper":
        reasons.append(f"scale {cells[0].scale}")
    kinds = sorted({c.data_kind for c in cells if c.done} - {"complete"})
    reasons += [f"{kind} data" for kind in kinds]
    return (
        f"Not the paper's experiment ({', '.join(reasons)}): "
        "the shape may be compared, the numbers not."
    )


def diverged(cells: Sequence[CellRow]) -> str:
    """A sentence that names the cells whose training diverged, and why; else empty."""
    places = [f"{c.cell_id} {c.diverged}" for c in cells if c.state == "diverged"]
    return f"Diverged and in no mean: {'; '.join(places)}." if places else ""


def mixed_versions(cells: Sequence[CellRow]) -> str:
    """A sentence when the records come from different numeric code or devices; else empty."""
    # Network, attack, rule and device decide which code counts: only like cells can disagree.
    fingerprints: dict[tuple[str, str, str, str], set[str]] = {}
    for c in cells:
        if c.done:
            alike = (c.settings["task"]["model"], c.attack, c.aggregator, c.device)
            fingerprints.setdefault(alike, set()).add(c.fingerprint)
    versions = max(map(len, fingerprints.values()), default=0)
    devices = sorted({c.device_name or c.device for c in cells if c.done})
    sentences = []
    if versions > 1:
        sentences.append(f"Records of {versions} versions of the numeric code are mixed.")
    if len(devices) > 1:
        sentences.append(f"Records come from several devices: {', '.join(devices)}.")
    return " ".join(sentences)


def caption(cells: Sequence[CellRow]) -> str:
    """All of the above in one paragraph."""
    return " ".join(filter(None, [data_sentence(cells), warning(cells), mixed_versions(cells)]))


def _data_phrase(cells: Sequence[CellRow]) -> str:
    """``digits (stand-in for mnist and cifar10: note)``, one phrase per dataset really used."""
    stands_for: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.done:
            names = stands_for.setdefault((cell.data_name, cell.data_kind, cell.data_note), [])
            if cell.dataset not in names:
                names.append(cell.dataset)
    phrases = []
    for (name, kind, note), names in stands_for.items():
        role = kind if names == [name] else f"{kind} for {' and '.join(names)}"
        phrases.append(f"{name} ({role}{': ' + note if note else ''})")
    return "data " + ", ".join(phrases) if phrases else ""
