"""The arguments of a training run: dataclasses whose fields are the options of the command line."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from ..data.splits import refuse_fraction
from ..data.windows import WindowShape
from ..model.decoders import DECODERS
from ..model.decoding import BALANCED_DISTANCE_WEIGHT
from ..prediction.predict import PredictionSettings

NETWORKS = ("STMoEBert", "MobilityBERT", "MobilityBERTMoE")

# Fields of ModelArguments that are not fields of the model's configuration.
NOT_IN_CONFIG = (
    *("model_name", "model_path", "freeze", "cell_table", "city_embedding"),
    *("attn_implementation", "experts_implementation"),
)
# Fields of a configuration that may change when training goes on from a saved model: no weight depends on them.
MAY_CHANGE = ("dropout", "attention_dropout", "router_aux_loss_coef", "head_chunk_size", "max_seq_length")


def _also(name: str) -> list[str]:
    """Options of another name of an argument, in both spellings, as the parser makes them of the argument's own."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


@dataclass
class ModelArguments:
    """The model: a new one of the given sizes, or a saved one to go on from. Unset sizes keep their defaults."""

    model_name: str = field(
        default="STMoEBert",
        metadata={
            "help": "The network of a new model; the other two are the published ones.",
            "choices": list(NETWORKS),
        },
    )
    model_path: str | None = field(
        default=None, metadata={"help": "A saved model to go on from (folder or Hub id).", "aliases": _also("model")}
    )
    freeze: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts of the model at model_path that training leaves as they are: embeddings, encoder, experts,"
            " router, history_head, spread, gate, cell_head, cell_table, city."
        },
    )
    cell_table: str = field(
        default="keep",
        metadata={
            "help": "What becomes of the table of cells of the model at model_path, whose ids mean other places in"
            " another city: keep it and train on, or reinit (draw it anew). To keep it as it is: --freeze cell_table.",
            "choices": ["keep", "reinit", "freeze"],
            "metavar": "{keep,reinit}",  # freeze is the earlier form of --freeze cell_table
        },
    )
    city_embedding: bool = field(
        default=False,
        metadata={
            "help": "Give each city of the training a vector of its own (joint training); a city that is trained on"
            " later starts from their mean, and one that never is gets it."
        },
    )
    location_embedding_size: int | None = field(default=None, metadata={"help": "Width of the cell embedding."})
    day_embedding_size: int | None = field(default=None, metadata={"help": "Width of the embedding of the day."})
    time_embedding_size: int | None = field(default=None, metadata={"help": "Width of the embedding of the slot."})
    day_of_week_embedding_size: int | None = field(default=None, metadata={"help": "Width of the weekday embedding."})
    weekday_embedding_size: int | None = field(  # the published name, and that of saved configurations
        default=None,
        metadata={
            "help": "Width of the embedding of working days and days off (also --day_off_embedding_size).",
            "aliases": _also("day_off_embedding_size"),
        },
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Hidden size of the encoder."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers (published: hidden_layers)."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads (published: attention_heads)."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Inner width of a dense feed-forward."})
    dropout: float | None = field(default=None, metadata={"help": "Of embeddings and feed-forwards."})
    attention_dropout: float | None = field(default=None, metadata={"help": "Of attention weights; slow on a CPU."})
    max_seq_length: int | None = field(default=None, metadata={"help": "Longest sequence (records) of a window."})
    num_experts: int | None = field(default=None, metadata={"help": "Experts of a sparse layer; 0: dense network."})
    num_experts_per_tok: int | None = field(default=None, metadata={"help": "Experts that a record is sent to."})
    moe_intermediate_size: int | None = field(default=None, metadata={"help": "Inner width of an expert."})
    sparse_layers: list[int] | None = field(default=None, metadata={"help": "Layers with experts; unset: all."})
    router_aux_loss_coef: float | None = field(default=None, metadata={"help": "Weight of the balance loss."})
    history_head: bool | None = field(default=None, metadata={"help": "Score the records of a person's own history."})
    history_content_size: int | None = field(default=None, metadata={"help": "Width of its content term; 0: none."})
    history_relation_size: int | None = field(
        default=None, metadata={"help": "Width of its relation network; 0: none."}
    )
    history_spread: int | None = field(
        default=None, metadata={"help": "Cells that the weight of a history's record spreads around its own."}
    )
    history_far: bool | None = field(
        default=None, metadata={"help": "What is not history goes by kilometres from it, not to all cells alike."}
    )
    city_field: bool | None = field(
        default=None, metadata={"help": "Cells that a person was never in: a gate and a distribution of their own."}
    )
    city_field_size: int | None = field(default=None, metadata={"help": "Inner width of that distribution."})
    city_field_poi: bool | None = field(
        default=None, metadata={"help": "It also goes by points of interest, where --poi gives them."}
    )
    record_features: bool | None = field(
        default=None, metadata={"help": "Tell of each record what its cell is to the person."}
    )
    cell_head: bool | None = field(default=None, metadata={"help": "Also predict a distribution over all cells."})
    head_chunk_size: int | None = field(default=None, metadata={"help": "Asked-for records a step of that head."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa (default), eager, ..."})
    experts_implementation: str | None = field(
        default=None, metadata={"help": "eager, stmoe_grouped, ...; unset: the fastest where the model runs."}
    )

    def __post_init__(self) -> None:
        if self.model_path is None and (self.freeze or self.cell_table != "keep"):
            raise ValueError(
                "freeze and cell_table say what becomes of a trained model's parts: they need --model_path"
            )

    def config_values(self) -> dict[str, Any]:
        """The fields of the configuration that were set."""
        values = {name: value for name, value in vars(self).items() if name not in NOT_IN_CONFIG}
        return {name: value for name, value in values.items() if value is not None}

    def implementations(self) -> dict[str, str]:
        """What was asked for of attention and experts."""
        values = {name: getattr(self, name) for name in ("attn_implementation", "experts_implementation")}
        return {name: value for name, value in values.items() if value is not None}

    def refuse_other_sizes(self, config: Any) -> None:
        """Raise ValueError if a size was given that the saved model does not have; set what may change."""
        wrong = []
        for name, value in self.config_values().items():
            if name in MAY_CHANGE:
                setattr(config, name, value)
            elif getattr(config, name, value) != value:
                wrong.append(f"{name} {value} (the model has {getattr(config, name)})")
        if wrong:
            raise ValueError(
                f"the model at {self.model_path} has other sizes than the arguments ask for: {', '.join(wrong)}"
            )


@dataclass
class DataArguments:
    """The data: which city, where, and how it is split and cut into windows."""

    city: str | None = field(
        default=None, metadata={"help": "City to train on and predict, by its name in the files."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the files of the city."})
    data_path: str | None = field(default=None, metadata={"help": "A file, in place of a city of a folder."})
    pretrain_cities: list[str] | None = field(
        default=None, metadata={"help": "Other cities of data_dir to train on in the same run, whole."}
    )
    city_temperature: float = field(
        default=1.0, metadata={"help": "Of joint training: 1 draws every user equally often, more evens the cities."}
    )
    edition: str | None = field(
        default=None, metadata={"help": "humob2023, humob2024 or humob2025; unset: told from the file's name."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared cities are kept."})
    poi: str | None = field(
        default=None, metadata={"help": "Points of interest of the city (x, y, category, POI_count), csv or parquet."}
    )
    cut_day: int | None = field(default=None, metadata={"help": "First day of the horizon; unset: the edition's."})
    horizon_days: int = field(default=15, metadata={"help": "Days to predict."})
    test_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of the unmasked users that is held out from the cut day on and scored.",
            "aliases": _also("eval_fraction"),
        },
    )
    max_users: int | None = field(
        default=None, metadata={"help": "Use the first so many users of every city only, for a trial."}
    )
    input_seq_length: int | None = field(default=None, metadata={"help": "Records of history; unset: all."})
    predict_seq_length: int | None = field(
        default=None,
        metadata={"help": "Records predicted at a time, then fed back; unset: the whole horizon at once."},
    )
    look_back_len: int | None = field(
        default=None, metadata={"help": "A training window every so many records; unset: one a user and epoch."}
    )
    windows_per_user: int = field(default=1, metadata={"help": "Training windows a user and epoch (one shot)."})
    alone_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training windows whose asked-for records are asked alone, as forecasts ask them; the"
            " others see when the person was observed in the horizon."
        },
    )
    varied_share: float = field(
        default=0.0,
        metadata={"help": "Share of the training windows whose history is thinned or cut short, as some people's is."},
    )
    min_history_days: int = field(default=14, metadata={"help": "Fewest days before the cut of a training window."})
    min_horizon_days: int = field(default=5, metadata={"help": "Fewest days after the cut of a training window."})

    def __post_init__(self) -> None:
        self.window_shape()
        refuse_fraction(self.test_fraction)
        if self.max_users is not None and self.max_users < 1:
            raise ValueError(f"max_users is {self.max_users}; a trial needs at least 1")

    def window_shape(self) -> WindowShape:
        return WindowShape(
            self.horizon_days,
            self.input_seq_length,
            self.predict_seq_length,
            self.look_back_len,
            self.min_history_days,
            self.min_horizon_days,
        )


# What the field wants where transformers' default would not do.
LOWER_IS_BETTER = ("dtw", "nll")
# What evaluation measures, and the best checkpoint may be chosen by.
METRICS = (
    *("humob2024_geobleu", "humob2024_dtw", "humob2025_geobleu", "humob2025_dtw"),
    *("accuracy", "nll"),
)


@dataclass
class RunArguments(TrainingArguments):
    """Training: the arguments of transformers' Trainer, with the defaults of this field, and some more."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; unset: runs/city<city>."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Of everything but the cell embedding."})
    location_embedding_lr: float = field(default=1e-4, metadata={"help": "Learning rate of the cell embedding."})
    num_train_epochs: float = field(default=30, metadata={"help": "Epochs (published: num_epochs)."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Windows a step and device."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Windows a step and device in prediction."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1, their share of all steps."})
    weight_decay: float = field(default=0.001, metadata={"help": "Of matrices; none on biases and norms."})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Train in bf16; unset: on a GPU that has it; on a CPU only if said, as few networks gain there"
            " (docs/speed.md)."
        },
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logged losses."})
    metric_for_best_model: str | None = field(
        default="humob2024_geobleu",
        metadata={"help": "Chooses the best checkpoint: humob2024_geobleu, humob2025_dtw, accuracy, nll, ..."},
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter takes part in every step: nothing need be looked for."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Windows have no unused columns."})
    validation_users: int = field(
        default=100,
        metadata={
            "aliases": _also("eval_users"),
            "help": "Users whose last days before the cut are kept from training and evaluated during it, at most a"
            " fifth of all; 0: train on everything, keep the last checkpoint.",
        },
    )
    decoder: str = field(default="balanced", metadata={"help": "How cells are chosen.", "choices": list(DECODERS)})
    distance_weight: float = field(
        default=BALANCED_DISTANCE_WEIGHT, metadata={"help": "Cost of a kilometre in the balanced decoder."}
    )
    num_candidates: int = field(
        default=32, metadata={"help": "Candidates: the most probable cells, and all of the history's."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last whole checkpoint of output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew in an output_dir that holds a run."})
    verbose: bool = field(default=False, metadata={"help": "Show all that is logged, and every bar of transformers."})
    report: bool = field(
        default=True, metadata={"help": "Write report.html, maps and people of the predictions; also --no_report."}
    )

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            # Without it each of several processes on a CPU would take itself for the only one.
            self.use_cpu = True
        has_gpu = not self.use_cpu and torch.cuda.is_available()
        if self.bf16 is None:
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported()
        elif self.bf16:
            on_cpu = self.use_cpu or not torch.accelerator.is_available()
            if (on_cpu and not cpu_has_bf16()) or (has_gpu and not torch.cuda.is_bf16_supported()):
                raise ValueError("bf16: this machine has no GPU or CPU that computes in it; leave it out or say false")
            self.use_cpu = on_cpu  # which transformers wants said
        self.dataloader_pin_memory = self.dataloader_pin_memory and has_gpu
        if self.validation_users <= 0 or self.eval_strategy == "no":
            self.keep_last_checkpoint()
        metric = self.metric_for_best_model
        if metric is not None and metric.removeprefix("eval_") not in METRICS:
            raise ValueError(f"metric_for_best_model is {metric!r}; it must be one of {', '.join(METRICS)}")
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = not self.metric_for_best_model.endswith(LOWER_IS_BETTER)
        super().__post_init__()

    @property
    def trains(self) -> bool:
        return self.num_train_epochs > 0 and self.max_steps != 0

    def keep_last_checkpoint(self) -> None:
        """Evaluate nothing during training: there is nobody to choose a checkpoint by."""
        self.eval_strategy, self.load_best_model_at_end, self.metric_for_best_model = "no", False, None

    def prediction_settings(self, data: DataArguments) -> PredictionSettings:
        return PredictionSettings(
            self.decoder, self.distance_weight, self.num_candidates, data.input_seq_length, data.predict_seq_length
        )


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16: an x86 with AVX512-bf16 or AMX; of other kinds it is taken to be so."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not is_x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


ARGUMENTS = (ModelArguments, DataArguments, RunArguments)
# Other names of arguments, earlier ones among them: accepted on the command line, in YAML files, by `train`, and read
# in the record of a run.
ALIASES = {
    alias.removeprefix("--"): f.name
    for kind in ARGUMENTS
    for f in fields(kind)
    for alias in f.metadata.get("aliases", ())
}


def with_true_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values by the names of the arguments.

    Raises:
        ValueError: an argument is given by two of its names.
    """
    for alias in values:
        if ALIASES.get(alias) in values:
            raise ValueError(f"{alias} and {ALIASES[alias]} are two names of one argument: give one of them")
    return {ALIASES.get(name, name): value for name, value in values.items()}
