"""GEO-BLEU, DTW and accuracy as an `evaluate.Metric`: `evaluate.load(stmoe_hf.metrics.METRIC)`."""

from typing import Any

import datasets
import evaluate

from stmoe_hf.metrics import score
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
    predictions, references: tables of uid, d, t, x, y (DataFrames, data sets, dicts of columns, files), or lists of
        records [uid, d, t, x, y], in any order, the same (uid, d, t) in both.
    edition: humob2024 or humob2025.
    cell_km: side of a cell in kilometres; by default as the tables' city.json says, else 0.5.
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
        """The scores; tables are scored as they come, lists of records may also have been added in batches before."""
        if predictions is None or references is None or self.writer is not None or self.num_process > 1:
            # `evaluate` copies this method without its closure, so there is no super().
            return evaluate.Metric.compute(self, predictions=predictions, references=references, **options)
        return self._compute(predictions, references, **options)

    def _compute(self, predictions, references, edition, cell_km=None):
        grid = None if cell_km is None else Grid(cell_km=cell_km)
        return score(predictions, references, edition, grid=grid).to_dict()
