"""The configurations of the two published networks, `MobilityBERT` and `MobilityBERTMoE`."""

from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_stmoe_bert import OnAGrid, STMoEBertConfig


@strict
class MobilityBertConfig(OnAGrid, PreTrainedConfig):
    """Everything that the shape of `MobilityBERT` depends on, and by the class below that of `MobilityBERTMoE`.

    Args:
        grid_width, grid_height: cells of the grid.
        cell_km: side of a cell in kilometres.
        num_days, num_slots: days of the calendar, and slots of a day.
        num_location_ids: cells in the table and in the output; `grid_width * grid_height`, and checked against it.
        location_embedding_size, day_embedding_size, time_embedding_size, day_of_week_embedding_size,
            weekday_embedding_size: widths of the embeddings of cell, day, slot, weekday and weekend flag.
        hidden_size, num_hidden_layers: of the BERT (the published name `hidden_layers` is accepted).
        num_attention_heads: of the attention block before the BERT (published: `attention_heads`).
        bert_attention_heads: of the BERT; None takes `num_attention_heads`. The released code never passes its
            argument on, so that weights which it trained have 12 here.
        intermediate_size: of the BERT; None takes 4 * hidden_size. Released weights of MobilityBERTMoE have 3072.
        dropout: of the embeddings and of the attention block.
        bert_dropout: within the BERT.
        max_seq_length: the most records of a row, history and asked-for together.
        num_experts: experts of MobilityBERTMoE, all of them mixed for every record; MobilityBERT has none.
        holidays_are_weekends: whether a holiday counts as a weekend; the published flag is of Saturday and Sunday.
        input_seq_length, predict_seq_length: records of history and asked-for records that the network was trained
            to see at once (published: 240 and 30); None if not known.
        head_chunk_size: asked-for records per step of the cross-entropy over all cells; bounds its memory.
    """

    model_type = "mobility_bert"
    attribute_map = {  # noqa: RUF012 (the base class declares it)
        "hidden_layers": "num_hidden_layers",
        "attention_heads": "num_attention_heads",
    }
    # A list: the Trainer adds another one to it.
    keys_to_ignore_at_inference = ["candidates", "log_probability"]  # noqa: RUF012

    grid_width: int = 200
    grid_height: int = 200
    cell_km: float | int = 0.5
    num_days: int = 75
    num_slots: int = 48
    num_location_ids: int | None = None

    location_embedding_size: int = 64
    day_embedding_size: int = 16
    time_embedding_size: int = 32
    day_of_week_embedding_size: int = 16
    weekday_embedding_size: int = 8

    hidden_size: int = 256
    num_hidden_layers: int = 24
    num_attention_heads: int = 8
    bert_attention_heads: int | None = None
    intermediate_size: int | None = None
    dropout: float | int = 0.1
    bert_dropout: float | int = 0.1
    initializer_range: float = 0.02
    max_seq_length: int = 512
    num_experts: int = 8

    holidays_are_weekends: bool = False
    input_seq_length: int | None = None
    predict_seq_length: int | None = None
    head_chunk_size: int = 1024

    def __post_init__(self, **kwargs):
        # The published name of a field that `attribute_map` renames would otherwise be set after the checks.
        for published, name in self.attribute_map.items():
            if published in kwargs:
                setattr(self, name, kwargs.pop(published))
        own = {field.name for field in fields(MobilityBertConfig)}
        if foreign := [f.name for f in fields(STMoEBertConfig) if f.name in kwargs and f.name not in own]:
            raise ValueError(f"the published networks have no {', '.join(foreign)}; those belong to STMoEBert")
        if self.num_location_ids is None:
            self.num_location_ids = self.grid_width * self.grid_height
        if self.bert_attention_heads is None:
            self.bert_attention_heads = self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)
        self._refuse_what_cannot_work()

    def _refuse_what_cannot_work(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in (
                *("grid_width", "grid_height", "num_days", "num_slots", "hidden_size", "num_hidden_layers"),
                *("location_embedding_size", "day_embedding_size", "time_embedding_size"),
                *("day_of_week_embedding_size", "weekday_embedding_size"),
                *("intermediate_size", "max_seq_length", "num_experts", "head_chunk_size"),
            )
            if getattr(self, name) < 1
        ]
        if self.num_location_ids != self.num_cells:
            problems.append(
                f"num_location_ids is {self.num_location_ids}, but a grid of {self.grid_width} x {self.grid_height} "
                f"has {self.num_cells} cells"
            )
        for name in ("num_attention_heads", "bert_attention_heads"):
            heads = getattr(self, name)
            if heads < 1 or self.hidden_size % heads:
                problems.append(f"hidden_size {self.hidden_size} cannot be shared among {name} {heads}")
        problems += [
            f"{name} is {getattr(self, name)}; it must lie in 0..1, 1 excluded"
            for name in ("dropout", "bert_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
        look = (self.input_seq_length or 0) + (self.predict_seq_length or 0)
        if look > self.max_seq_length:
            problems.append(
                f"input_seq_length and predict_seq_length together are {look}; max_seq_length is {self.max_seq_length}"
            )
        if problems:
            raise ValueError("this configuration cannot work: " + "; ".join(problems))


@strict
class MobilityBertMoEConfig(MobilityBertConfig):
    """The configuration of `MobilityBERTMoE`: a class of its own, since the Auto classes tell networks apart by it."""

    model_type = "mobility_bert_moe"


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
MobilityBertConfig.register_for_auto_class()
MobilityBertMoEConfig.register_for_auto_class()

__all__ = ["MobilityBertConfig", "MobilityBertMoEConfig"]
