"""GEO-BLEU, DTW and accuracy, in the edition that is named."""

from .score import EDITIONS, Scores, score

__all__ = ["EDITIONS", "Scores", "score"]
