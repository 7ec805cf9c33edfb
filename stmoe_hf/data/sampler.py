"""The order of training windows: batches of similar lengths, the same in every process and after a resume."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from .windows import JointWindows, TrainingWindows

BATCHES_A_GROUP = 16


class LengthGroupedSampler(Sampler[int]):
    """A new random order of training windows in each epoch, in which neighbours have similar lengths.

    Windows are shuffled, cut into groups of `BATCHES_A_GROUP` batches, and sorted by length within a group, the
    batches of a group then shuffled, so padding stays small and batches stay random. Items carry the epoch:
    `epoch * len + i`.

    Args:
        windows: to draw from.
        batch_size: windows of an optimisation step, over accumulation and processes.
        seed: of the order.
        multiple: the items of an epoch are made up to a multiple of this by windows without labels, which count for
            nothing: so several processes have equally many, and learn what one would.
    """

    def __init__(
        self,
        windows: TrainingWindows | JointWindows,
        batch_size: int,
        seed: int,
        multiple: int = 1,
    ):
        self.windows, self.batch_size, self.seed, self.epoch = windows, batch_size, seed, 0
        self.group = batch_size * BATCHES_A_GROUP
        self.blanks = -len(windows) % multiple

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.windows) + self.blanks

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self.windows)
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.windows))
        sizes = self.windows.sizes(self.epoch)
        batches = []
        for start in range(0, len(order), self.group):
            group = order[start : start + self.group]
            group = group[np.argsort(sizes[group], kind="stable")]
            batches += [group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size)]
        # Only whole batches change places: a short one in the middle would shift all later ones.
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        for index in random.permutation(len(whole)):
            yield from (first + int(i) for i in whole[index])
        for batch in rest:
            yield from (first + int(i) for i in batch)
        # Short windows, without their labels.
        yield from (-1 - first - int(i) for i in np.resize(np.argsort(sizes, kind="stable"), self.blanks))
