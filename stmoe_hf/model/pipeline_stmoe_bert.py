"""`pipeline("mobility-prediction", model=...)(records)`: a table with unknown cells in, a table of predictions out."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import Pipeline

from .decoders import DECODERS
from .decoding import BALANCED_DISTANCE_WEIGHT, expected_values
from .records import find_masked
from .tables import record_columns, to_table

TASK = "mobility-prediction"
NUM_CANDIDATES = 32  # of a person: the most probable cells; all of the history's are candidates too


class MobilityPipeline(Pipeline):
    """Predicts the asked-for records of any number of people, with the probability of each cell.

    The day decoder, which chooses a day's cells together, and drawn days need the package `stmoe_hf`: importing it
    names the module in `days_module`.
    """

    days_module: str | None = None  # of decode_days and draw_days, imported when they are first asked for

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("a pipeline needs the processor that was saved beside the model, or processor=")
        self.processor.refuse_other_model(self.model.config)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model with its code, and the processor, which says what grid and calendar it was made for."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(
        self,
        records: Any,
        *,
        top_k: int = 1,
        decoder: str = "balanced",
        distance_weight: float = BALANCED_DISTANCE_WEIGHT,
        batch_size: int = 8,
        city: str | None = None,
        input_seq_length: int | None = None,
        samples: int = 0,
    ) -> pd.DataFrame:
        """Predict.

        Args:
            records: any table of uid, d, t, x, y that `tables.to_table` takes: a DataFrame, a `datasets.Dataset`,
                rows, a dict of columns, a list of tables. x and y are 999 or missing where they are asked for. All
                other records of a person are the history.
            top_k: so many cells for each asked-for record: the decoder's, then the most probable of the others.
            decoder: mode, geobleu, dtw, balanced, or day (with the package); chooses the cell of rank 1.
            distance_weight: of the balanced decoder, per kilometre.
            batch_size: people at a time.
            city: which city of `model.config.cities` the records are of, for a model that was trained on several; by
                default one that it was not trained on.
            input_seq_length: so many records before the first asked-for one are the history; by default all. Networks
                of the published regime take short ones only. Predictions are not fed back here, as they are there:
                that is what `stmoe predict --predict_seq_length` does.
            samples: draw so many trajectories of the asked-for records of each day, in place of cells with their
                probabilities (with the package; without top_k and decoder).

        Returns:
            Columns uid, d, t, rank (from 1), x, y, probability, in the order of uid, d, t, rank; every record that is
            asked for is answered. With samples: uid, d, t, sample (from 0), x, y, in the order of uid, sample, d, t.

        Raises:
            ValueError: missing columns, a value that is no whole number, a missing uid, an unknown decoder or city, or
                nothing that is asked for.
        """
        if decoder not in DECODERS:
            raise ValueError(f"decoder is {decoder!r}; a pipeline has {', '.join(DECODERS)}")
        if samples and (top_k, decoder) != (1, "balanced"):
            raise ValueError("samples are whole drawn days: leave top_k and decoder out")
        if decoder == "day" or samples:
            self._find_days_module()
        if top_k < 1 or batch_size < 1 or samples < 0:
            raise ValueError(
                f"top_k ({top_k}) and batch_size ({batch_size}) must be at least 1, samples ({samples}) 0"
            )
        cities = list(getattr(self.model.config, "cities", None) or [])
        if city is not None and city not in cities:
            raise ValueError(f"city is {city!r}; the cities of this model are {', '.join(cities) or 'not told apart'}")
        people = self._people(records, input_seq_length)
        parts = []
        for first in range(0, len(people), batch_size):
            inputs = self.preprocess(people[first : first + batch_size])
            asked = inputs.pop("asked")
            if city is not None:
                inputs["city"] = torch.full((len(asked),), cities.index(city))
            with torch.no_grad(), self.device_placement():
                output = self._forward(self._ensure_tensor_on_device(inputs, self.device))
            outputs = {"asked": asked, "output": output, "inputs": inputs["inputs"]}
            if samples:
                parts.append(self._drawn_days(outputs, samples))
            else:
                parts.append(self.postprocess(outputs, top_k, decoder, distance_weight))
        order = ["uid", "sample", "d", "t"] if samples else ["uid", "d", "t", "rank"]
        return pd.concat(parts, ignore_index=True).sort_values(order, ignore_index=True)

    def predict_trajectory(self, history: Any, slots: Any, **options: Any) -> pd.DataFrame:
        """Predict one person.

        Args:
            history: (d, t, x, y) of each record of the person's past: a list of them, or a table with these columns.
            slots: (d, t) of each record to predict, likewise.
            options: as of a call.

        Returns:
            Columns d, t, rank, x, y, probability.
        """
        asked = to_table(slots, ("d", "t"))[["d", "t"]]
        records = pd.concat([to_table(history, ("d", "t", "x", "y")), asked], ignore_index=True).assign(uid=0)
        return self(records, **options).drop(columns="uid")

    def _people(self, records: Any, history: int | None) -> list[pd.DataFrame]:
        """The records of each person who is asked for, the shortest first, so that batches hold little padding.

        They are in time order; with `history`, at most so many stand before the first asked-for one.
        """
        records = record_columns(to_table(records), missing_cells=True)
        people = [person for _, person in records.sort_values(["d", "t"]).groupby("uid") if self._asked(person).any()]
        if history is not None:
            people = [person.iloc[max(0, int(self._asked(person).argmax()) - history) :] for person in people]
        if not people:
            raise ValueError("no record is asked for: x and y must be 999 or missing where a cell is to be predicted")
        return sorted(people, key=len)

    def _asked(self, person: pd.DataFrame) -> np.ndarray:
        return find_masked(person["x"], person["y"], self.processor.grid)[0]

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, people: Sequence[pd.DataFrame]) -> dict[str, Any]:
        """People in time order -> batch of inputs, and the uid, d, t that each row asks for."""
        asked = [person.loc[self._asked(person), ["uid", "d", "t"]] for person in people]
        return {**self.processor(pd.concat(people)), "asked": asked}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> Any:
        return self.model(**inputs, num_candidates=NUM_CANDIDATES)

    def postprocess(self, outputs: dict[str, Any], top_k: int, decoder: str, distance_weight: float) -> pd.DataFrame:
        """The table of a batch."""
        probabilities, candidates = self._probabilities(outputs["output"])
        if decoder == "day":
            values = self._of_planned_days(outputs, probabilities, candidates)
        else:
            values = expected_values(probabilities, candidates, self.processor.grid, decoder, distance_weight)
        # The decoder's cell, then the most probable of the others.
        order = probabilities.masked_fill(torch.isneginf(values), -1.0)
        order = order.scatter(-1, values.argmax(-1, keepdim=True), torch.inf)
        best = order.topk(min(top_k, values.shape[-1]), dim=-1)
        is_cell = torch.isfinite(values.gather(-1, best.indices))
        tables = []
        for row, asked in enumerate(outputs["asked"]):
            count, ranks = len(asked), best.indices.shape[-1]
            chosen = best.indices[row, :count]
            x, y = self.processor.cells_to_xy(candidates[row][chosen].numpy())
            table = asked.loc[asked.index.repeat(ranks)].reset_index(drop=True)
            table["rank"] = np.tile(np.arange(1, ranks + 1), count)
            table["x"], table["y"] = x.ravel(), y.ravel()
            table["probability"] = probabilities[row, :count].gather(1, chosen).numpy().ravel()
            tables.append(table[is_cell[row, :count].numpy().ravel()])
        return pd.concat(tables)

    def _probabilities(self, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities [B, Q, K] of the candidates [B, K]; both on the CPU."""
        probabilities, candidates = output.logits.float().exp().cpu(), output.candidates.cpu()
        if not getattr(self.model.config, "cell_head", True):
            # Of a person without history such a network knows nothing; the centre is the least far from everywhere.
            nothing_known = torch.isneginf(output.history).all(-1).all(-1).cpu()
            candidates[nothing_known] = -1
            candidates[nothing_known, 0] = self.processor.grid.centre
        return probabilities, candidates

    def _find_days_module(self) -> Any:
        """The module that plans and draws days; ValueError where the package or a history is missing."""
        if not getattr(self.model.config, "history_head", False):
            raise ValueError("planned and drawn days need a network with a history head; choose another decoder")
        if self.days_module is None:
            raise ValueError("planned and drawn days are in the package: import stmoe_hf, or choose another decoder")
        return importlib.import_module(self.days_module)

    def _day_arguments(self, outputs: dict[str, Any], probabilities: Any, candidates: Any) -> tuple:
        """What `decode_days` and `draw_days` take of a batch."""
        counts = torch.tensor([len(asked) for asked in outputs["asked"]])
        exists = torch.arange(probabilities.shape[1]) < counts[:, None]
        history, inputs = outputs["output"].history.cpu(), outputs["inputs"].cpu()
        return probabilities, candidates, history, inputs, exists, self.processor.grid

    def _of_planned_days(self, outputs: dict[str, Any], probabilities: Any, candidates: Any) -> torch.Tensor:
        """[B, Q, K] 1 at the candidate that is planned for each record, 0 at the others, -inf at what is none."""
        arguments = self._day_arguments(outputs, probabilities, candidates)
        planned = self._find_days_module().decode_days(*arguments)
        values = (candidates[:, None, :] == planned[..., None]).float()
        return values.masked_fill((candidates < 0)[:, None, :], -torch.inf)

    def _drawn_days(self, outputs: dict[str, Any], samples: int) -> pd.DataFrame:
        """The table of a batch, of `samples` (S) drawn trajectories in place of chosen cells."""
        arguments = self._day_arguments(outputs, *self._probabilities(outputs["output"]))
        drawn = self._find_days_module().draw_days(*arguments, samples=samples)  # [B, S, Q]
        tables = []
        for row, asked in enumerate(outputs["asked"]):
            table = pd.concat([asked] * samples, ignore_index=True)
            table["sample"] = np.repeat(np.arange(samples), len(asked))
            table["x"], table["y"] = self.processor.cells_to_xy(drawn[row, :, : len(asked)].numpy().ravel())
            tables.append(table)
        return pd.concat(tables)


__all__ = ["TASK", "MobilityPipeline"]
