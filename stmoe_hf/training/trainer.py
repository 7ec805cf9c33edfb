"""The Trainer: transformers' own, with whole-window prediction, the field's metrics and the load of the experts."""

import contextlib
import functools
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset, Sampler
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..data.files import aside_of, give_usual_mode
from ..data.sampler import LengthGroupedSampler
from ..evaluation.evaluate import window_metrics
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import NO_LABEL
from ..prediction.load import refuse_unfinite_weights
from ..prediction.predict import NoProbability, PredictionSettings, predict_cells
from .arguments import RunArguments
from .checkpoints import write_list
from .routing import RouterBalance
from .step_totals import StepTotals, experts_in_use

logger = logging.getLogger(__name__)


class MobilityTrainer(Trainer):
    """transformers' Trainer for windows of trajectories.

    Differs in: batches of similar lengths, a learning rate of its own for the cell embedding, routers kept from
    collapsing, prediction that decodes cells step by step and never gathers logits, metrics of the windows that are
    evaluated, logs of the experts, and checkpoints that carry a list of their files.
    """

    args: RunArguments

    def __init__(self, *args: Any, processor: MobilityProcessor, settings: PredictionSettings, **kwargs: Any):
        super().__init__(*args, **({"processing_class": processor} | kwargs | {"data_collator": processor.pad}))
        self.processor, self.settings = processor, settings
        model = self.accelerator.unwrap_model(self.model)
        table = model.get_input_embeddings()
        self._cell_embedding = tuple(
            name for name, p in self.model.named_parameters() if table is not None and p is table.weight
        )
        self.balance = RouterBalance(
            model,
            self.train_dataset,
            processor,
            functools.partial(self.accelerator.reduce, reduction="sum"),
            self._gather_rows,
        )
        self.totals = StepTotals(
            getattr(model.config, "num_experts", 0), getattr(model.config, "num_experts_per_tok", 0)
        )
        self.add_callback(self.balance)
        self.add_callback(self.totals)
        self._outputs: Any = None  # of the batch that is trained on
        self._predicted: Any = None  # windows
        self._batches_predicted = 0

    def _gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, some of them NaN where one has fewer."""
        if self.args.world_size == 1:
            return rows
        return self.accelerator.gather(self.accelerator.pad_across_processes(rows, dim=0, pad_index=torch.nan))

    # ---- Saving and loading ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.args.output_dir)
        with _told(folder, "make room; the checkpoints are whole, --resume goes on from the last"):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Written aside, then put into place, so that no half-written weights stand under a final name."""
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        refuse_unfinite_weights(self.model if state_dict is None else state_dict, "training diverged")
        folder.mkdir(parents=True, exist_ok=True)
        aside = aside_of(folder / "model")
        try:
            aside.mkdir()
            super()._save(str(aside), state_dict)
            for path in sorted(aside.iterdir()):
                give_usual_mode(path)
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        run = self._get_output_dir(trial=trial)
        folder = Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with _told(folder, "earlier checkpoints are whole: make room and go on with --resume"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_list(folder)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:  # older ones go only when this one is whole
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with _readable(resume_from_checkpoint, "the weights"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint, "the state of the optimizer or of the learning rate"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint, "the random state"):
            super()._load_rng_state(checkpoint)

    # ---- Training ----

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        # The windows of a whole optimisation step are drawn together, so that the number of processes and of
        # accumulation steps changes nothing.
        args, windows = self.args, train_dataset or self.train_dataset
        everywhere = args.train_batch_size * args.world_size
        step = everywhere * args.gradient_accumulation_steps
        multiple = everywhere if args.world_size > 1 else 1
        return LengthGroupedSampler(windows, step, args.seed, multiple=multiple)  # type: ignore[arg-type]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model  # type: ignore[assignment]
            named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            cells = [p for name, p in named if self._cell_embedding and name.endswith(self._cell_embedding)]
            is_cell = {id(p) for p in cells}
            decayed = set(self.get_decay_parameter_names(model))
            rest = [(name, p) for name, p in named if id(p) not in is_cell]
            # The main group comes first: its learning rate is the one that is logged.
            groups: list[dict[str, Any]] = [
                {"params": [p for name, p in rest if name in decayed], "weight_decay": self.args.weight_decay},
                {"params": [p for name, p in rest if name not in decayed], "weight_decay": 0.0},
            ]
            if cells:
                groups.append({"params": cells, "weight_decay": 0.0, "lr": self.args.location_embedding_lr})
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)  # type: ignore[arg-type]
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        usual = functools.partial(super().compute_loss, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            counts = (inputs["labels"] != NO_LABEL).any(-1, keepdim=True)  # a window that makes up a step does not
            with self.balance.listening(inputs["attention_mask"] * counts):
                loss, outputs = usual(model, inputs)
            self._outputs = outputs
        else:
            loss, outputs = usual(model, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        outputs, self._outputs = self._outputs, None
        load, balance = (getattr(outputs, name, None) for name in ("expert_load", "aux_loss"))
        self.totals.add_batch(loss, *(None if value is None else value.detach() for value in (load, balance)))
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.totals.read(self.accelerator.reduce)  # before a checkpoint is written of a diverged model
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.totals.log()
        if "train_loss" in logs:  # the Trainer's is of the steps since the last resume
            self.totals.read(self.accelerator.reduce)
            logs |= self.totals.results()
        for name in [name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)]:
            del logs[name]  # a gradient that overflowed in fp16, whose step was skipped; JSON has no such number
        super().log(logs, start_time)

    # ---- Prediction ----

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        number, self._batches_predicted = self._batches_predicted, self._batches_predicted + 1
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                cells, log_probability = predict_cells(model, inputs, self.processor.grid, self.settings)
        except NoProbability as error:
            batch = number * self.args.world_size + self.args.process_index
            window = batch * self.args.eval_batch_size + error.row
            raise NoProbability(error.row, f"uid {self._predicted.city.uids[self._predicted.rows[window]]}") from None
        # The Trainer wants labels before it computes metrics; the windows hold the truth, so any will do.
        return None, (cells, log_probability), cells

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        windows = dataloader.dataset

        def metrics(outcome: EvalPrediction) -> dict[str, float]:
            cells, log_probability = outcome.predictions  # type: ignore[misc]
            return window_metrics(windows, cells, log_probability)

        self.compute_metrics = metrics
        self._predicted, self._batches_predicted = windows, 0
        with self._load_of_experts() as load:
            outcome = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if load:
            shares = self.accelerator.reduce(torch.stack(load).sum(0), reduction="sum")
            shares = shares / shares.sum(-1, keepdim=True)  # [layers, E]
            outcome.metrics[f"{metric_key_prefix}_experts_in_use"] = round(float(experts_in_use(shares).min()), 3)
            if metric_key_prefix != "eval":  # evaluations are logged, and a log holds single numbers
                load_of_layers: Any = [[round(share, 4) for share in layer] for layer in shares.tolist()]
                outcome.metrics[f"{metric_key_prefix}_expert_load"] = load_of_layers
        return outcome

    @contextlib.contextmanager
    def _load_of_experts(self) -> Iterator[list[torch.Tensor]]:
        """The load [layers, E] of each batch that the model predicts meanwhile, times its windows."""
        load: list[torch.Tensor] = []

        def note(_: torch.nn.Module, args: tuple, kwargs: dict, outputs: Any) -> None:
            if getattr(outputs, "expert_load", None) is not None:
                load.append(outputs.expert_load.float() * len(kwargs["inputs"]))

        hook = self.accelerator.unwrap_model(self.model).register_forward_hook(note, with_kwargs=True)
        try:
            yield load
        finally:
            hook.remove()


@contextlib.contextmanager
def _told(folder: Path, what_to_do: str) -> Iterator[None]:
    """A full disk, said in one line with the folder that could not be written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{folder} could not be written ({error}): {what_to_do}") from error


@contextlib.contextmanager
def _readable(checkpoint: str | None, what: str) -> Iterator[None]:
    """What is wrong with a checkpoint without a list of its files, said in one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{what} in {checkpoint} cannot be read ({type(error).__name__}): remove this folder, and --resume goes on"
            " from an earlier checkpoint"
        ) from error
