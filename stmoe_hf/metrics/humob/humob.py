"""GEO-BLEU, DTW and accuracy as an `evaluate.Metric`: `evaluate.load(stmoe_hf.metrics.METRIC)`."""

from typing import Any

import datasets
import evaluate
import numpy as np
import pandas as pd

from stmoe_hf.metrics import score
from stmoe_hf.model.records import RECORD_COLUMNS
from stmoe_hf.model.spacetime import Grid

_DESCRIPTION = """\
Scores predicted trajectories on a grid as the HuMob Challenge does: GEO-BLEU (higher is better) and dynamic time
warping in kilometres (lower is better), per user and day, averaged over a user's days and then over users, and the
accuracy of the cells. Each call names the edition of the metrics, humob2024 or humob2025; they are not comparable.
"""

_CITATION = """\
@inproceedings{shimizu2022geobleu,
  title = {{GEO-BLEU}: Similarity Measure for Geospatial Sequences},
  author = {Shimizu, Toru and Tsubouchi, Kota and Yabe, Takahiro},
  booktitle = {Proceedings of the 30th International Conference on Advances in Geographic Information Systems},
  year = {2022}
}
"""

_INPUTS = """
Args:
    predictions, references: lists of records [uid, d, t, x, y], or DataFrames with these columns, in any order; the
        same (uid, d, t) in both.
    edition: humob2024 or humob2025.
    cell_km: side of a cell in kilometres, 0.5 by default.
Returns:
    edition, users, days, records, geobleu, dtw (km), accuracy.
"""


class Humob(evaluate.Metric):
    """The scores of `stmoe_hf.metrics.score` behind the interface of `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        record = datasets.Sequence(datasets.Value("int64"), length=5)
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": record, "references": record}),
            reference_urls=["https://github.com/yahoojapan/geobleu"],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict | None:
        """Scores of records, as lists or DataFrames."""
        # `evaluate` copies this method without its closure, so there is no super().
        rows = {"predictions": _rows(predictions), "references": _rows(references)}
        return evaluate.Metric.compute(self, **rows, **options)

    def _compute(self, predictions, references, edition, cell_km=0.5):
        ours, theirs = (np.array(side, np.int64).reshape(-1, 5) for side in (predictions, references))
        return score(ours, theirs, edition, grid=Grid(cell_km=cell_km)).to_dict()


def _rows(side: Any) -> Any:
    """The records of a table as the lists that `evaluate` takes; anything else as it is."""
    return side[list(RECORD_COLUMNS)].to_numpy().tolist() if isinstance(side, pd.DataFrame) else side
