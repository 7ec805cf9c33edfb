"""The model of a run: refused before data are read if it cannot work, then built new or from a saved one."""

from __future__ import annotations

import logging
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from ..model.experts_stmoe_bert import experts_implementation_on
from ..model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
from ..model.modeling_stmoe_bert import STMoEBertForMobility
from ..prediction.load import find_model, load_config, load_saved
from .arguments import DataArguments, ModelArguments, RunArguments
from .run_data import RunData
from .transfer import CELL_TABLE, begin_cell_table_anew, freeze

logger = logging.getLogger(__name__)
NETWORKS: dict[str, type[PreTrainedModel]] = {
    "STMoEBert": STMoEBertForMobility,
    "MobilityBERT": MobilityBERT,
    "MobilityBERTMoE": MobilityBERTMoE,
}


def find_config(model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> Any:
    """The configuration of the model, saved or new; raises before data are read if something cannot work."""
    if model_args.model_path is None:
        config: Any = new_config(model_args)
    else:
        config = load_config(find_model(model_args.model_path))
        model_args.refuse_other_sizes(config)
    if args.decoder == "day" and not getattr(config, "history_head", False):
        raise ValueError("the decoder `day` needs a network with a history head; choose another --decoder")
    shape = data_args.window_shape()
    if shape.input_seq_length and shape.predict_seq_length:
        length = shape.input_seq_length + shape.predict_seq_length
        if length > config.max_seq_length:
            raise ValueError(
                f"windows of {shape.input_seq_length} + {shape.predict_seq_length} records are longer than"
                f" max_seq_length {config.max_seq_length}"
            )
    return config


def new_config(model_args: ModelArguments, **grid_and_calendar: Any) -> PreTrainedConfig:
    """The configuration of a new model; raises ValueError if it cannot work."""
    config_class: Any = NETWORKS[model_args.model_name].config_class
    return config_class(**model_args.config_values(), **grid_and_calendar)


def new_model(model_args: ModelArguments, **grid_and_calendar: Any) -> PreTrainedModel:
    """A model with new weights; raises ValueError if its configuration cannot work."""
    config = new_config(model_args, **grid_and_calendar)
    return NETWORKS[model_args.model_name]._from_config(config, **model_args.implementations())


def build_model(
    model_args: ModelArguments, data_args: DataArguments, args: RunArguments, data: RunData
) -> PreTrainedModel:
    """The model that training starts from: a new one or a saved one, its parts kept, frozen or begun anew."""
    model = _new_or_saved(model_args, args, data)
    if model_args.cell_table == "reinit" and not begin_cell_table_anew(model, args.seed):
        logger.info("the model has no table of cells: nothing was drawn anew")
    if data.known_cities:
        if not hasattr(model, "add_cities"):
            raise ValueError(f"{type(model).__name__} has no city embedding; that belongs to STMoEBert")
        model.add_cities(data.known_cities)  # type: ignore[operator]
    if hasattr(model.config, "trained_alone"):  # the published networks have no such setting
        model.config.trained_alone = model.config.trained_alone or data_args.alone_share > 0
    freeze(model, [*(model_args.freeze or []), *([CELL_TABLE] if model_args.cell_table == "freeze" else [])])
    if getattr(model.config, "sparse_layers", None):
        implementation = experts_implementation_on(args.device, model.config)  # type: ignore[arg-type]
        logger.info("implementation of the experts: %s", implementation)
    return model


def _new_or_saved(model_args: ModelArguments, args: RunArguments, data: RunData) -> PreTrainedModel:
    set_seed(args.seed)
    if model_args.model_path is None:
        grid, calendar = data.city.grid, data.city.calendar
        return new_model(
            model_args,
            grid_width=grid.width,
            grid_height=grid.height,
            cell_km=grid.cell_km,
            num_days=calendar.num_days,
            num_slots=calendar.num_slots,
        )
    name = find_model(model_args.model_path)
    config: Any = load_config(name)
    config = config.for_data(data.city.grid, data.city.calendar)
    model_args.refuse_other_sizes(config)
    return load_saved(name, config=config, **model_args.implementations())[0]
