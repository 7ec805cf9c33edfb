"""The configuration of ST-MoE-BERT: grid, calendar, sizes, experts and head."""

import copy
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What a portable network is moved between, and how far: slots of an hour to 15 minutes, cells of 100 m to 2 km.
MEASURES = ("cell_km", "num_days", "num_slots")
SLOTS_A_DAY = (24, 96)
CELL_KM = (0.1, 2.0)


class OnAGrid:
    """What the configurations of all networks share: cells of a grid, and the way to another grid and calendar."""

    tables: list[str] = ["location_embedding_size"]  # noqa: RUF012 (a property of those that can be without)

    @property
    def num_cells(self) -> int:
        return self.grid_width * self.grid_height

    @property
    def mask_id(self) -> int:
        """Cell of an asked-for record."""
        return self.num_cells

    @property
    def pad_id(self) -> int:
        """Cell of a position without a record."""
        return self.num_cells + 1

    def for_data(self, grid: Any, calendar: Any) -> Any:
        """This configuration for another grid and calendar: load the weights with it.

        Args:
            grid: with `width`, `height`, `cell_km`.
            calendar: with `num_days`, `num_slots`.

        Raises:
            ValueError: the network has a table of cells or days, and these are others; or slots or cells are of a
                size that nothing was tried on.
        """
        now = (self.grid_width, self.grid_height, self.cell_km, self.num_days, self.num_slots)
        asked = (grid.width, grid.height, grid.cell_km, calendar.num_days, calendar.num_slots)
        if now == asked:
            return self
        names = ("grid_width", "grid_height", "cell_km", "num_days", "num_slots")
        if self.tables:
            differ = [
                f"{n} is {b} in the data and {a} in the model"
                for n, a, b in zip(names, now, asked, strict=True)
                if a != b
            ]
            raise ValueError(
                f"the model was made for another grid or calendar: {'; '.join(differ)}. It has tables of cells or days"
                f" ({', '.join(self.tables)}); only a network without them can be moved"
            )
        if not SLOTS_A_DAY[0] <= calendar.num_slots <= SLOTS_A_DAY[1]:
            raise ValueError(
                f"a day has {calendar.num_slots} slots; a network can be moved to slots of 15 minutes to an hour"
            )
        if not CELL_KM[0] <= grid.cell_km <= CELL_KM[1]:
            raise ValueError(
                f"a cell is {grid.cell_km:g} km wide; a trained network can be moved to cells of {CELL_KM[0]:g} to"
                f" {CELL_KM[1]:g} km"
            )
        moved = copy.deepcopy(self)
        for name, value in zip(names, asked, strict=True):
            setattr(moved, name, value)
        return moved


@strict
class STMoEBertConfig(OnAGrid, PreTrainedConfig):
    """Everything that the shape of an ST-MoE-BERT depends on.

    Args:
        grid_width, grid_height: cells of the grid.
        cell_km: side of a cell in kilometres.
        num_days, num_slots: days of the calendar, and slots of a day.
        trained_cell_km, trained_num_days, trained_num_slots: what the weights were made for; by default the same as
            `cell_km`, `num_days`, `num_slots`. `for_data` moves a portable network to other ones: distances, durations
            and counts are then rescaled (`docs/portable.md`).
        location_embedding_size: width of the cell embedding; 0 leaves the cell out of the sequence.
        day_embedding_size, time_embedding_size, day_of_week_embedding_size, weekday_embedding_size: widths of the
            embeddings of day, slot, weekday and day off, by their published names. A width of 0 leaves one out.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the encoder (the published names
            `hidden_layers` and `attention_heads` are accepted).
        dropout: of embeddings and feed-forwards.
        attention_dropout: of the attention's weights. At 0 attention is fused and never holds a [T, T] tensor: on a
            CPU, training takes half the time and a fraction of the memory.
        max_seq_length: the longest sequence (history and asked-for records) that is accepted.
        num_experts: experts of a sparse layer; 0 makes every feed-forward dense.
        num_experts_per_tok: experts that a record is sent to.
        moe_intermediate_size: inner width of an expert; None shares `intermediate_size` among the experts of a
            record, so that a sparse layer has the active parameters of a dense one.
        sparse_layers: layers with experts; None means all.
        router_aux_loss_coef: weight of the balance loss.
        output_router_logits: whether forward returns the routers' logits.
        history_head: whether the head also scores the records of the person's own history.
        history_content_size: width of the content term of the history head (encoder states); 0 leaves it out.
        history_relation_size: width of the small network over the relation of two records; 0 leaves it out.
        history_spread: how many (trained) cells far the weight of a history's record spreads around its own cell; 0:
            not at all.
        history_far: whether what is not history is a distribution over the distance from the history's records (in
            rings of kilometres) in place of all cells alike.
        city_field: whether cells that the history does not know have a gate and a distribution of their own, learned
            from how new cells appeared in the history and, where it is given, from what is counted of a city's other
            people (`field_cells` and `field_counts` of the forward). Needs `history_far` and `history_spread`.
        city_field_size: inner width of that distribution.
        city_field_poi: whether it also goes by points of interest, where they are given (`field_poi`).
        record_features: whether a record also carries what its cell is to the person (how often, when, how long ago it
            was visited), counted in the window's own history.
        cities: names of the cities that have a vector of their own in the embedding of a record, in the order of their
            ids; a row of an unknown city gets the mean of them. None: no such embedding.
        cell_head: whether the head has a distribution over all cells of the grid.
        head_chunk_size: asked-for records per step of the cross-entropy over all cells; bounds its memory.
        trained_alone: whether training also asked for records alone (`asked_alone` of the forward), so that forecasts
            of single slots are what the network has learned.
        temperature: of the probabilities that people are told, fitted after training; below 1 they are sharpened.
    """

    model_type = "stmoe_bert"
    attribute_map = {  # noqa: RUF012 (the base class declares it)
        "hidden_layers": "num_hidden_layers",
        "attention_heads": "num_attention_heads",
        "num_local_experts": "num_experts",
    }
    # A list: the Trainer adds another one to it.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "candidates",
        "history",
        "aux_loss",
        "expert_load",
        "router_logits",
    ]

    grid_width: int = 200
    grid_height: int = 200
    cell_km: float | int = 0.5
    num_days: int = 75
    num_slots: int = 48
    trained_cell_km: float | int | None = None
    trained_num_days: int | None = None
    trained_num_slots: int | None = None

    location_embedding_size: int = 64
    day_embedding_size: int = 16
    time_embedding_size: int = 32
    day_of_week_embedding_size: int = 16
    weekday_embedding_size: int = 8

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "gelu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    max_seq_length: int = 4096

    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    sparse_layers: list[int] | None = None
    router_aux_loss_coef: float | int = 0.01
    output_router_logits: bool = False

    history_head: bool = True
    history_content_size: int = 32
    history_relation_size: int = 32
    history_spread: int = 0
    history_far: bool = False
    city_field: bool = False
    city_field_size: int = 12
    city_field_poi: bool = False
    record_features: bool = False
    cities: list[str] | None = None
    cell_head: bool = True
    head_chunk_size: int = 1024
    trained_alone: bool = False
    temperature: float | int = 1.0

    def __post_init__(self, **kwargs):
        # The published name of a field that `attribute_map` renames would otherwise be set after the checks.
        for published, name in self.attribute_map.items():
            if published in kwargs:
                setattr(self, name, kwargs.pop(published))
        if self.moe_intermediate_size is None and self.num_experts > 0 and self.num_experts_per_tok > 0:
            self.moe_intermediate_size = max(1, self.intermediate_size // self.num_experts_per_tok)
        if self.sparse_layers is None:
            self.sparse_layers = list(range(self.num_hidden_layers)) if self.num_experts > 0 else []
        for name in ("cell_km", "num_days", "num_slots"):
            if getattr(self, f"trained_{name}") is None:
                setattr(self, f"trained_{name}", getattr(self, name))
        super().__post_init__(**kwargs)
        self._refuse_what_cannot_work()

    def _refuse_what_cannot_work(self) -> None:
        sizes = (
            *("grid_width", "grid_height", "num_days", "num_slots", "hidden_size", "num_hidden_layers"),
            *("max_seq_length", "moe_intermediate_size", "head_chunk_size", "trained_num_days", "trained_num_slots"),
            "city_field_size",
        )
        widths = (
            *("location_embedding_size", "day_embedding_size", "time_embedding_size", "day_of_week_embedding_size"),
            *("weekday_embedding_size", "history_content_size", "history_relation_size", "history_spread"),
        )
        problems = [
            f"{name} is {value}; it must be at least {least}"
            for least, names in ((1, sizes), (0, widths))
            for name in names
            if (value := getattr(self, name)) is not None and value < least
        ]
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size {self.hidden_size} cannot be shared among num_attention_heads {self.num_attention_heads}"
            )
        if self.num_experts < 0 or (self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts):
            problems.append(
                f"num_experts_per_tok {self.num_experts_per_tok} must lie in 1..num_experts = {self.num_experts}"
            )
        outside = [layer for layer in self.sparse_layers or [] if not 0 <= layer < self.num_hidden_layers]
        if outside:
            problems.append(f"sparse_layers names {outside}; layers are 0..{self.num_hidden_layers - 1}")
        if self.sparse_layers and not self.num_experts:
            problems.append("sparse_layers needs num_experts above 0")
        if not (self.history_head or self.cell_head):
            problems.append("history_head and cell_head are both off; one of them must give the cells")
        if self.history_far and (self.cell_head or not self.history_head):
            problems.append(
                "history_far is what is not history, for a network with history_head and without cell_head"
            )
        if self.city_field and not (self.history_far and self.history_spread):
            problems.append("city_field is for a network with history_far and history_spread")
        if self.city_field_poi and not self.city_field:
            problems.append("city_field_poi is for a network with city_field")
        problems += [
            f"{name} is {getattr(self, name)}; it must be a positive number"
            for name in ("cell_km", "trained_cell_km", "temperature")
            if not 0 < getattr(self, name) < math.inf
        ]
        if self.tables and self.differs_from_training:
            problems.append(
                f"{', '.join(self.tables)} have a row for each cell or day that the network was trained on, so it"
                f" cannot serve another grid or calendar ({self.differs_from_training}). Train one for these data, or"
                " take a portable one (no cell table, no day embedding, no cell head)"
            )
        problems += [
            f"{name} is {getattr(self, name)}; it must lie in 0..1"
            for name in ("dropout", "attention_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
        if problems:
            raise ValueError("this configuration cannot work: " + "; ".join(problems))

    @property
    def tables(self) -> list[str]:
        """The parts that belong to one grid and calendar; a network without any is portable."""
        tables = {
            "location_embedding_size": self.location_embedding_size > 0,
            "day_embedding_size": self.day_embedding_size > 0,
            "cell_head": self.cell_head,
        }
        return [name for name, is_there in tables.items() if is_there]

    @property
    def differs_from_training(self) -> str:
        """What differs from what the weights were made for, in words; empty where nothing does."""
        pairs = [(name, getattr(self, name), getattr(self, f"trained_{name}")) for name in MEASURES]
        return ", ".join(f"{name} {now} in place of {then}" for name, now, then in pairs if now != then)

    @property
    def slots_per_trained_slot(self) -> float:
        """How many slots of the data make one of the slots that the weights were made for."""
        return self.num_slots / (self.trained_num_slots or self.num_slots)

    # The names under which transformers' BertLayer looks for what this configuration calls differently.
    @property
    def hidden_dropout_prob(self) -> float:
        return self.dropout

    @property
    def attention_probs_dropout_prob(self) -> float:
        return self.attention_dropout

    @property
    def is_decoder(self) -> bool:
        return False

    @property
    def add_cross_attention(self) -> bool:
        return False


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
STMoEBertConfig.register_for_auto_class()

__all__ = ["OnAGrid", "STMoEBertConfig"]
