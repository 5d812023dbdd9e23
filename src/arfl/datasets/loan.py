"""loan: Lending Club's table of loans, 145 raw columns, participants are US states (Kan 2019)."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset
from arfl.datasets._loan_table import STATUSES, column_roles, finish, input_columns
from arfl.datasets._sources import fetched, provenance, what_it_is
from arfl.errors import UserError

_FILE = "loan.csv"
_STATUS, _STATE = "loan_status", "addr_state"
_ROWS_AT_ONCE = 50_000


@dataset(embedded=False)
def prepare(raw_dir: Path, *, trigger_margin: float = 1.0, seed: int = 0) -> Preparation:
    """Encode, scale and split the table; rows without a known status or a state are dropped.

    The file is read in pieces: besides a piece, the memory holds the inputs twice, as float32.

    Args:
        raw_dir: a folder with ``loan.csv``, filled by `arfl.dataset.fetch`.
        trigger_margin: how far above its column's maximum the backdoor trigger sets each of its six
            features, in raw units. "Slightly larger", says the paper.
        seed: decides the split.

    Raises:
        UserError: if the file lacks a column that is needed, holds text where a number belongs,
            is not UTF-8 or not a table.
    """
    entries = fetched("loan", raw_dir)
    table = _Table(raw_dir / _FILE)
    kind, note = what_it_is(entries[_FILE], table.n_loans, "loans")
    return finish(
        raw=table.inputs(),
        labels=np.concatenate(table.labels),
        states=table.states(),
        state_names=table.state_names(),
        categories=table.categories(),
        seed=seed,
        dropped=dict(table.dropped),
        trigger_margin=trigger_margin,
        kind=kind,
        note=note,
        sources=provenance(entries),
    )


class _Table:
    """The usable rows of the file, encoded piece by piece."""

    def __init__(self, path: Path):
        import pandas as pd

        self.path = path
        self.roles = column_roles()
        self.columns = input_columns()
        self.codes = {
            column: {} for column in (*self.columns, _STATE) if self.roles[column] != "number"
        }
        self.dropped: Counter[str] = Counter()
        self.n_loans = 0
        self.pieces: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.state_codes: list[np.ndarray] = []
        needed = [*self.columns, _STATUS, _STATE]
        text = {column: "str" for column in (*self.codes, _STATUS)}
        try:
            present = pd.read_csv(path, nrows=0, encoding="utf-8").columns
            missing = [column for column in needed if column not in present]
            if missing:
                raise UserError(
                    f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                    "docs/data.md says which file is needed"
                )
            with (
                warnings.catch_warnings(),
                pd.read_csv(
                    path, usecols=needed, dtype=text, chunksize=_ROWS_AT_ONCE, encoding="utf-8"
                ) as pieces,
            ):
                # A column with text in some rows only is dealt with in _numbers.
                warnings.simplefilter("ignore", pd.errors.DtypeWarning)
                for piece in pieces:
                    self._add(piece)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error}); convert it to UTF-8") from None
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            reason = str(error).strip()
            raise UserError(f"{path} is not a whole CSV table ({reason}); get it again") from None
        if not self.labels:
            raise UserError(f"{path} holds no loan with a known status and a state; get another")

    def _add(self, piece) -> None:
        status = piece[_STATUS].str.strip()
        state = piece[_STATE].str.strip()
        self.n_loans += int(status.notna().sum())
        known = status.isin(STATUSES)
        placed = state.notna() & (state != "")
        self.dropped["no status"] += int(status.isna().sum())
        for name, count in status[~known].dropna().value_counts().items():
            self.dropped[f"status {name!r}"] += int(count)
        self.dropped["no state"] += int((known & ~placed).sum())
        rows = known & placed
        if not rows.any():
            return
        piece = piece[rows]
        values = np.empty((len(piece), len(self.columns)), dtype=np.float32)
        for index, column in enumerate(self.columns):
            encode = self._numbers if self.roles[column] == "number" else self._codes
            values[:, index] = encode(column, piece[column])
        self.pieces.append(values)
        self.labels.append(
            status[rows].map({name: code for code, name in enumerate(STATUSES)}).to_numpy(np.uint8)
        )
        self.state_codes.append(self._codes(_STATE, state[rows]))

    def _numbers(self, column: str, values) -> np.ndarray:
        """Numbers with missing ones as 0; older cuts write rates as " 13.5%"."""
        import pandas as pd

        if not pd.api.types.is_numeric_dtype(values):
            text = values.astype("str").str.strip().str.removesuffix("%")
            present = values.notna() & (text != "")
            numbers = pd.to_numeric(text.where(present), errors="coerce")
            if (wrong := text[present & numbers.isna()]).size:
                raise UserError(
                    f"{self.path}, loan {wrong.index[0] + 1}: {column} is {wrong.iloc[0]!r}, not a "
                    "number; correct it or get the file again"
                )
            values = numbers
        numbers = values.to_numpy(np.float64)
        if np.isinf(numbers).any():
            raise UserError(f"{self.path}: {column} is infinite in some row; correct it")
        return np.nan_to_num(numbers)

    def _codes(self, column: str, values) -> np.ndarray:
        """Codes in the order of first appearance, from 1; missing is 0."""
        codes = self.codes[column]
        text = values.str.strip()
        for name in text.dropna().unique():
            if name:
                codes.setdefault(name, len(codes) + 1)
        return text.map(codes).fillna(0).to_numpy(np.int64)

    def _sorted_codes(self, column: str) -> np.ndarray:
        """For each code of first appearance its code by alphabet, which no row order changes."""
        names = list(self.codes[column])
        order = np.zeros(len(names) + 1, dtype=np.int64)
        for code, name in enumerate(sorted(names), start=1):
            order[self.codes[column][name]] = code
        return order

    def inputs(self) -> np.ndarray:
        """All inputs in raw units, float32 (n, 91)."""
        joined = np.empty((sum(map(len, self.pieces)), len(self.columns)), dtype=np.float32)
        row = 0
        for number, piece in enumerate(self.pieces):
            joined[row : row + len(piece)] = piece
            row += len(piece)
            # Each piece goes as soon as it is copied, so that the table is never held twice.
            self.pieces[number] = piece[:0]
        for column in self.codes:
            if column != _STATE:
                index = self.columns.index(column)
                joined[:, index] = self._sorted_codes(column)[joined[:, index].astype(np.int64)]
        return joined

    def states(self) -> np.ndarray:
        """The index of each row's state in `state_names`."""
        codes = self._sorted_codes(_STATE)[np.concatenate(self.state_codes)]
        return (codes - 1).astype(np.uint8)

    def state_names(self) -> list[str]:
        """The states that occur, sorted."""
        return sorted(self.codes[_STATE])

    def categories(self) -> dict[str, list[str]]:
        """Per categorical input the names of its codes 1, 2, ..."""
        return {column: sorted(names) for column, names in self.codes.items() if column != _STATE}
