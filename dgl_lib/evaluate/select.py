"""Choosing a setting on validation, and saying beside it what a choice on test would have promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib.errors import UserError


def select(
    table: pd.DataFrame, *, by: Sequence[str] = ("method",), val: str = "val_iou", peak: str = "test_peak"
) -> pd.DataFrame:
    """One row of each group: the candidate with the best validation score (the first, where several tie).

    For pixel scores ``table`` is ``evaluation.report``, in which each row's threshold is already chosen on validation
    and its test score taken there; box scores need the same three columns.

    Args:
        table: a row for each candidate: layer, scales, kernel, normalisation ...
        by: columns that name a group. Every group gets its own choice, from its own candidates.
        val: column of the validation score, which alone decides.
        peak: column of the candidate's best test score over thresholds.

    Returns:
        The chosen rows as they are, groups in the order of their first row, with two columns more: ``candidates``, how
        many there were, and ``test_best``, the highest ``peak`` among them: what choosing everything on test promises,
        never to be reported as the result.

    Raises:
        UserError: a column that is missing, no row, or a validation score that is no number.
    """
    if missing := [name for name in (*by, val, peak) if name not in table]:
        raise UserError(f"columns {', '.join(missing)} missing, given are {', '.join(map(str, table.columns))}")
    if table.empty:
        raise UserError("selection: no candidate given, at least one needed")
    if not np.isfinite(table[val]).all():
        raise UserError(f"{val}: {(~np.isfinite(table[val])).sum()} of {len(table)} values are no numbers")
    groups = table.reset_index(drop=True).groupby(list(by), sort=False, dropna=False)
    chosen = table.reset_index(drop=True).loc[groups[val].idxmax()]
    sizes, best = groups[val].size().to_numpy(), groups[peak].max().to_numpy()
    return chosen.assign(candidates=sizes, test_best=best).reset_index(drop=True)


def highest(table: pd.DataFrame, by: str) -> dict[str, Any]:
    """The row with the highest value in column ``by``, the first where several tie, as a dictionary."""
    return table.iloc[int(table[by].to_numpy().argmax())].to_dict()  # type: ignore[return-value]
