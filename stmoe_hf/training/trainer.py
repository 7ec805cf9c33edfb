"""The Trainer: transformers' own, with whole-window prediction, the field's metrics and the load of the experts."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset, Sampler
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.sampler import LengthGroupedSampler
from ..evaluation.evaluate import window_metrics
from ..model.processing_stmoe_bert import MobilityProcessor
from ..prediction.predict import PredictionSettings, predict_cells
from .arguments import RunArguments

logger = logging.getLogger(__name__)


class MobilityTrainer(Trainer):
    """transformers' Trainer for windows of trajectories.

    Differs in: batches of similar lengths, a learning rate of its own for the cell embedding, prediction that decodes
    cells step by step and never gathers logits, metrics of the windows that are evaluated, and logs of the experts.
    """

    args: RunArguments

    def __init__(self, *args: Any, processor: MobilityProcessor, settings: PredictionSettings, **kwargs: Any):
        super().__init__(*args, **(kwargs | {"data_collator": processor.pad}))
        # Not as `processing_class`: the Trainer would look for its tokenizer.
        self.processor, self.settings = processor, settings
        table = self.accelerator.unwrap_model(self.model).get_input_embeddings()
        self._cell_embedding = tuple(
            name for name, p in self.model.named_parameters() if table is not None and p is table.weight
        )
        self._expert_loads: list[torch.Tensor] = []
        self._aux_losses: list[torch.Tensor] = []

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.processor.save_pretrained(output_dir or self.args.output_dir)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} could not be written ({error}). Earlier checkpoints are whole: make room and go on with"
                " --resume"
            ) from error

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
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training and getattr(outputs, "expert_load", None) is not None:
            self._expert_loads.append(outputs.expert_load.detach())
            self._aux_losses.append(outputs.aux_loss.detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._expert_loads and "loss" in logs:
            logs |= self._expert_log()
        super().log(logs, start_time)

    def _expert_log(self) -> dict[str, float]:
        """The largest and smallest share of records that an expert gets, and how many experts a layer uses.

        The number in use is the exponential of the entropy of the shares, of the layer where it is smallest.
        """
        steps = len(self._aux_losses) / self.args.gradient_accumulation_steps
        load = torch.stack(self._expert_loads).mean(0).float()  # [layers, E]
        load = self.accelerator.reduce(load, reduction="mean")
        aux_loss = float(self.accelerator.reduce(torch.stack(self._aux_losses).sum(), reduction="sum")) / steps
        self._expert_loads, self._aux_losses = [], []
        in_use = float(torch.special.entr(load).sum(-1).exp().min())
        config = self.accelerator.unwrap_model(self.model).config
        if in_use < config.num_experts_per_tok + 0.1 < config.num_experts:
            logger.warning(
                "the router has collapsed: in one layer nearly all records go to the same %d of %d experts. Raise"
                " router_aux_loss_coef (now %g) or lower the learning rate",
                config.num_experts_per_tok,
                config.num_experts,
                config.router_aux_loss_coef,
            )
        return {
            "router_aux_loss": round(aux_loss, 4),
            "experts_in_use": round(in_use, 3),
            "expert_load_max": round(float(load.max()), 4),
            "expert_load_min": round(float(load.min()), 4),
        }

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            cells, log_probability = predict_cells(model, inputs, self.processor.grid, self.settings)
        # The Trainer wants labels before it computes metrics; the windows hold the truth, so any will do.
        return None, (cells, log_probability), cells

    def evaluation_loop(self, dataloader, *args, **kwargs):
        windows = dataloader.dataset

        def metrics(outcome: EvalPrediction) -> dict[str, float]:
            cells, log_probability = outcome.predictions  # type: ignore[misc]
            return window_metrics(windows, cells, log_probability)

        self.compute_metrics = metrics
        return super().evaluation_loop(dataloader, *args, **kwargs)
