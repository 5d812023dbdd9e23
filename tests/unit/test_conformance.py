"""The conformance kit on implementations whose faults are known."""

import pytest

from arfl import conformance
from arfl.cli import main
from arfl.errors import UserError

REPEATED_MEDIAN = """
import torch

def repeated_median(models):
    # the intercept taken from the medians
    ordered = models.sort(dim=0).values
    k = len(models)
    x = torch.arange(k, dtype=models.dtype)
    slopes = (ordered[:, None] - ordered[None]) / (x[:, None] - x[None])[:, :, None]
    others = [[j for j in range(k) if j != i] for i in range(k)]
    medians = torch.stack([slopes[i, others[i]].quantile(0.5, dim=0) for i in range(k)])
    slope = medians.quantile(0.5, dim=0)
    return ordered.quantile(0.5, dim=0) - slope * x.quantile(0.5) + slope * (k - 1) / 2
"""
FAULTY = """
def shrinks_with_size(models):
    # as copies of the authors' code do that split long tensors into parts of a thousand
    if models.shape[1] >= 2000:
        raise TypeError("expected Tensor as element 0 in argument 0")
    models -= models[0] * 0 + 1
    return models[0], None
"""
MEAN = "def mean(models):\n    return models.mean(0)\n"


def lines(tmp_path, text, **options):
    file = tmp_path / "rule.py"
    file.write_text(text)
    found = {}
    for line in conformance.report(file, **options).splitlines():
        mark, rest = line.split("  ", 1)
        check, _, detail = rest.partition(": ")
        if ": clients" in rest and check == "ties":
            check, _, detail = rest.partition("order")
        found[check] = (mark, detail)
    return found


def test_a_repeated_median_with_the_median_intercept_is_the_median(tmp_path):
    found = lines(tmp_path, REPEATED_MEDIAN, reference="repeated_median")
    assert found["as median"] == ("--", "equal to rounding")
    assert found["as repeated_median (released)"] == ("--", "equal to rounding")
    assert found["as repeated_median (paper)"][1].startswith("differs")
    assert found["breakdown"] == ("--", "withstands 4 of 10 clients far off")
    assert found["shift of all models"][0] == "ok"
    assert found["a row with nan is left out"][0] == "NO"


def test_an_error_at_long_tensors_is_found_with_the_length(tmp_path):
    found = lines(tmp_path, FAULTY)
    assert found["N = 1,999"][0] == "ok"
    assert found["N = 2,000"] == ("NO", "TypeError: expected Tensor as element 0 in argument 0")
    assert found["leaves its input alone"][0] == "NO"
    assert found["clients in any order"][0] == "NO"


def test_the_mean_is_fedavg_and_withstands_nobody(tmp_path):
    found = lines(tmp_path, MEAN, reference="fedavg")
    assert found["as fedavg"] == ("--", "equal to rounding")
    assert found["breakdown"] == ("--", "withstands 0 of 10 clients far off")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("1000 + models[0]", "leaves the clients' range with nobody far off"),
        ("models.amax(0)", "withstands 0 of 10 clients far off"),
        ("models[-1]", "withstands 9 of 10 clients far off"),
    ],
)
def test_how_many_outliers_a_rule_withstands(tmp_path, result, told):
    found = lines(tmp_path, f"def rule(models):\n    return {result}\n")
    assert found["breakdown"] == ("--", told)


def test_an_exception_of_the_file_itself_is_a_finding(tmp_path):
    text = """
class Odd(Exception):
    pass

def rule(models):
    if len(models) < 3:
        raise Odd("too few")
    return models.mean(0)
"""
    found = lines(tmp_path, text)
    assert found["K = 2"] == ("NO", "Odd: too few")
    assert found["K = 3"] == ("ok", "")


def test_our_own_rule_passes_every_check(tmp_path):
    text = "from arfl.aggregators import median as _m\ndef rule(models):\n    return _m(models)\n"
    found = lines(tmp_path, text)
    assert {mark for mark, _ in found.values()} == {"ok", "--"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (MEAN, {"reference": "median"}, "as median: differs by"),
        (MEAN, {"reference": "mode"}, "unknown reference 'mode'"),
        (MEAN + MEAN.replace("mean(m", "other(m"), {}, "name one .* --function: mean, other"),
        ("import nothing_of_this_name", {}, "cannot be imported: ModuleNotFoundError"),
        ("def f(:", {}, "cannot be imported: SyntaxError"),
        (
            "import numpy\n\ndef mean(models):\n    return numpy.mean(models, axis=0)\n",
            {},
            r"mean takes no \(K, N\) tensor of any size; TypeError: mean\(\) got an unexpected",
        ),
    ],
)
def test_mistakes_are_one_message(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message):
        lines(tmp_path, text, **options)


def test_it_is_a_verb(tmp_path, capsys):
    file = tmp_path / "rule.py"
    file.write_text(MEAN)
    assert main(["check", str(file), "--reference", "fedavg"]) == 0
    assert "as fedavg: equal to rounding" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none.py")]) == 2
    assert "is no Python file" in capsys.readouterr().err
