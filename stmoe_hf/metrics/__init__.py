"""GEO-BLEU, DTW and accuracy, in the edition that is named; also `evaluate.load(stmoe_hf.metrics.METRIC)`."""

from pathlib import Path

from .score import EDITIONS, Scores, accuracy, dtw, dtw_matrix, geobleu, geobleu_matrix, score

METRIC = str(Path(__file__).parent / "humob")  # the module that `evaluate.load` takes, wherever this is installed

__all__ = ["EDITIONS", "METRIC", "Scores", "accuracy", "dtw", "dtw_matrix", "geobleu", "geobleu_matrix", "score"]
