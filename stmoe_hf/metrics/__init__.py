"""GEO-BLEU, DTW and accuracy, in the edition that is named."""

from .score import EDITIONS, Scores, accuracy, dtw, dtw_matrix, geobleu, geobleu_matrix, score

__all__ = ["EDITIONS", "Scores", "accuracy", "dtw", "dtw_matrix", "geobleu", "geobleu_matrix", "score"]
