"""What must not be concluded from a report, said with the figures of the run itself."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..metrics import Scores
from .errors import interval
from .evidence import Evidence
from .places import KEYS

FEW_PEOPLE = 1000


def limits(
    evidence: Evidence, scores: dict[str, dict[str, Scores]], errors: pd.DataFrame | None, shown_people: int
) -> list[str]:
    """Sentences, each with a figure.

    Args:
        evidence: what the report is made from.
        scores: of each system and edition; the first system is the one reported on. Empty without a truth.
        errors: as of `record_errors`; None without a truth.
        shown_people: whose paths the page shows.
    """
    days = np.sort(evidence.predicted["d"].unique())
    people = evidence.predicted["uid"].nunique()
    off = int(evidence.calendar.is_day_off(days).sum())
    found = []
    if scores:
        found += _of_scores(scores)
    else:
        found.append(
            f"The truth of these {len(evidence.predicted):,} slots is not known here: nothing says how good it is."
        )
    found.append(
        f"{people:,} people{' are few, and they' if people < FEW_PEOPLE else ''} are those of this file: what holds"
        " for them need not hold for the others of the city, nor for another city."
    )
    if evidence.log:
        found.append(
            "Their own earlier days were trained on: nothing is said of people whom the model has never seen."
        )
    found.append(
        f"Days {days[0]} to {days[-1]} ({len(days)} days, {off} of them days off) are one season: no holiday, storm or"
        " earthquake can be forecast from it."
    )
    slots = len(evidence.predicted[KEYS].drop_duplicates())
    share = slots / (people * len(days) * evidence.calendar.num_slots)
    if share < 0.95:
        found.append(
            f"Only {share:.0%} of their slots are asked for, those in which they were seen; when somebody is seen says"
            " something about where they are, which a true forecast does not know."
        )
    if errors is not None and "cell" in errors:
        new = errors[errors["cell"] == "new"]
        if len(new):
            found.append(
                f"{len(new) / len(errors):.0%} of the records lie in cells where the person had never been: there the"
                f" forecast is right {new['hit'].mean():.1%} of the time and {new['off_km'].mean():.1f} km off on"
                f" average. It does not foresee new places."
            )
    if evidence.masked_people:
        found.append(f"{evidence.masked_people:,} people of the data are masked: their truth is not here, nor scored.")
    found.append(
        f"This page holds the paths of {shown_people:,} people. A path can be recognised without a name: share it as"
        " you would share the data."
    )
    return found


def _of_scores(scores: dict[str, dict[str, Scores]]) -> list[str]:
    own, *others = scores
    ours = scores[own]["humob2024"].per_user.set_index("uid")["geobleu"]
    mean = interval(ours.to_numpy())
    found = [
        f"Of another {len(ours):,} such people GEO-BLEU (edition humob2024) would be between {mean.low:.3f} and"
        f" {mean.high:.3f} as well; the editions humob2024 and humob2025 cannot be compared with each other."
    ]
    if others:
        best = max(others, key=lambda name: scores[name]["humob2024"].geobleu)
        theirs = scores[best]["humob2024"].per_user.set_index("uid")["geobleu"]
        paired = interval((ours - theirs).dropna().to_numpy())
        text = f"Paired by person, it is {paired.mean:+.4f} GEO-BLEU ({paired.low:+.4f} to {paired.high:+.4f}) against"
        text += f" the best baseline, {best.replace('_', ' ')}: "
        if paired.low > 0:
            text += "more than chance, on these people and days."
        elif paired.high < 0:
            text += "the baseline is better, and needs no training."
        else:
            text += "that is no difference that these people could show."
        found.append(text)
    return found
