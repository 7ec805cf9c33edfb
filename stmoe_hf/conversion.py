"""Published weights -> a folder that transformers loads: `convert(weights, arguments, output)`.

What is told from the files: the network and its number of experts (from the names), days, slots and the inner size of
the BERT (from the shapes), the rest from arguments.json. What is assumed, because the files cannot tell, is an option:
the order of the cells and the attention heads of the BERT.
"""

import hashlib
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .data.files import new_folder, refuse_full_folder
from .model.configuration_mobility_bert import MobilityBertConfig
from .model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE, MobilityBertPreTrainedModel
from .model.processing_stmoe_bert import MobilityProcessor

# What arguments.json must say about the network; the other published arguments are about training.
NETWORK_ARGUMENTS = (
    "num_location_ids",
    "hidden_size",
    "hidden_layers",
    "attention_heads",
    "day_embedding_size",
    "time_embedding_size",
    "day_of_week_embedding_size",
    "weekday_embedding_size",
    "location_embedding_size",
    "dropout",
    "max_seq_length",
)
LOOK_ARGUMENTS = ("input_seq_length", "predict_seq_length")

# Parts of a BERT that have weights, and which neither network's logits depend on.
UNUSED = (
    "bert.pooler.dense.weight",
    "bert.pooler.dense.bias",
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_ids",
    "bert.embeddings.token_type_ids",
)
# Names under which a training script may have put its state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")

# The released MobilityBERTMoE builds its BERT with these defaults of transformers, whatever its arguments say.
RELEASED_INTERMEDIATE_SIZE = 3072
RELEASED_HEADS = 12

CELL_ORDERS = ("row", "column")
SHOWN = 5


class ConversionError(ValueError):
    """Weights or arguments that cannot be converted; the message says which and what to do."""


def convert(
    weights: Path,
    arguments: Path,
    output: Path,
    *,
    cell_order: str = "row",
    grid_width: int | None = None,
    grid_height: int | None = None,
    bert_attention_heads: int | None = None,
) -> MobilityBertPreTrainedModel:
    """Write published weights as a folder for `from_pretrained`, and return the network.

    Args:
        weights: state dict of MobilityBERT or MobilityBERTMoE, .safetensors or anything that torch saved.
        arguments: the JSON of the published arguments.
        output: folder to write; it must not exist, or be empty.
        cell_order: "row" if the weights number cells (y-1)*width + (x-1) as this project does, "column" if
            (x-1)*height + (y-1). The published convention is not known; logits of the wrong one mean other places.
        grid_width, grid_height: cells along x and y; by default a square grid.
        bert_attention_heads: heads of the BERT, which no weight shows.

    Raises:
        ConversionError: weights or arguments that are not those of a published network, with what is wrong.
        OSError: a file that cannot be read or written.
    """
    if cell_order not in CELL_ORDERS:
        raise ConversionError(f"cell_order is {cell_order!r}; it can be {' or '.join(CELL_ORDERS)}")
    refuse_full_folder(output)
    state = read_state_dict(weights)
    network = MobilityBERTMoE if any(name.startswith("moe.") for name in state) else MobilityBERT
    config = _config(
        network, read_arguments(arguments), arguments, state, grid_width, grid_height, bert_attention_heads
    )
    with torch.device("meta"):
        expected = network(config).state_dict()
    state = {name: value for name, value in state.items() if name not in UNUSED}
    _refuse_other_weights(state, expected, network.__name__, weights)

    # Published weekdays are day % 7 with day 0 a Sunday; here Monday is 0.
    state["day_of_week_embedding.weight"] = state["day_of_week_embedding.weight"].roll(-1, dims=0)
    if cell_order == "column":
        order = torch.arange(config.num_cells).reshape(config.grid_width, config.grid_height).t().flatten()
        for name in ("location_embedding.weight", "output_projection.weight", "output_projection.bias"):
            state[name] = state[name][order]
    model = network(config)
    model.load_state_dict(state)
    model.eval()
    _write(
        model,
        output,
        {
            "weights": weights.name,
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "arguments": json.loads(arguments.read_text()),
            "cell_order": cell_order,
            "bert_attention_heads": config.bert_attention_heads,
        },
    )
    return model


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names -> float32 tensors of a .safetensors file or of a file that torch saved; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load without `weights_only`, which runs whatever the file says.
        raise ConversionError(
            f"{path}: this needs code that is pickled in the file (a whole model was saved, or the file is damaged), "
            "and is not loaded. Save the weights alone where they come from: torch.save(model.state_dict(), FILE)"
        ) from error
    except PermissionError:
        raise
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConversionError(f"{path}: not a file of weights, or a damaged one ({reason})") from error
    wrapper = next((name for name in WRAPPERS if isinstance(state, dict) and isinstance(state.get(name), dict)), None)
    if wrapper is not None:
        state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConversionError(f"{path}: not a state dict (names and tensors), but {_description(state)}")
    if all(name.startswith("module.") for name in state):  # saved from DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ConversionError(
            f"{path}: {_names(broken)} hold nan or infinity: the training diverged or the file is damaged"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def read_arguments(path: Path) -> dict[str, Any]:
    """The published arguments, those about the network checked."""
    try:
        arguments = json.loads(path.read_text())
    except ValueError as error:
        raise ConversionError(f"{path}: not JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise ConversionError(f"{path}: must be an object of argument names and values")
    missing = [name for name in NETWORK_ARGUMENTS if name not in arguments]
    if missing:
        raise ConversionError(f"{path}: {_names(missing)} not given; the network cannot be built without")
    for name in (*NETWORK_ARGUMENTS, *LOOK_ARGUMENTS):
        value = arguments.get(name)
        if name == "dropout":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConversionError(f"{path}: {name} is {value!r}; it must be a number")
        elif value is None and name in LOOK_ARGUMENTS:
            continue
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConversionError(f"{path}: {name} is {value!r}; it must be a whole number, at least 1")
    return arguments


def _config(
    network: type[MobilityBertPreTrainedModel],
    arguments: dict[str, Any],
    path: Path,
    state: dict[str, Tensor],
    grid_width: int | None,
    grid_height: int | None,
    bert_attention_heads: int | None,
) -> MobilityBertConfig:
    grid_width, grid_height = _grid(arguments["num_location_ids"], grid_width, grid_height)
    shapes: dict[str, Any] = {}
    for field, name in (
        ("num_days", "day_embedding.weight"),
        ("num_slots", "time_embedding.weight"),
        ("intermediate_size", "bert.encoder.layer.0.intermediate.dense.weight"),
    ):
        if name in state and state[name].dim() == 2:
            shapes[field] = len(state[name])
    experts = {int(match[1]) for name in state if (match := re.match(r"moe\.experts\.(\d+)\.", name))}
    if experts:
        shapes["num_experts"] = len(experts)
        if bert_attention_heads is None and shapes.get("intermediate_size") == RELEASED_INTERMEDIATE_SIZE:
            bert_attention_heads = RELEASED_HEADS
    given = {name: arguments[name] for name in (*NETWORK_ARGUMENTS, *LOOK_ARGUMENTS) if name in arguments}
    try:
        return network.config_class(
            grid_width=grid_width,
            grid_height=grid_height,
            bert_attention_heads=bert_attention_heads,
            **given,
            **shapes,
        )
    except ValueError as error:
        raise ConversionError(
            f"{path}: {error}. The heads of the BERT are in no file; give them by --bert_attention_heads"
            if "bert_attention_heads" in str(error)
            else f"{path}: {error}"
        ) from error


def _grid(num_cells: int, width: int | None, height: int | None) -> tuple[int, int]:
    if width is None and height is None:
        width = height = math.isqrt(num_cells)
    elif width is None or height is None:
        known = width or height or 0
        other = num_cells // known if known > 0 else 0
        width, height = width or other, height or other
    if width * height != num_cells:
        raise ConversionError(
            f"num_location_ids is {num_cells}, which is not a grid of {width} x {height}; "
            "give --grid_width and --grid_height"
        )
    return width, height


def _refuse_other_weights(state: dict[str, Tensor], expected: dict[str, Tensor], network: str, path: Path) -> None:
    problems = []
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    if missing:
        problems.append(f"{len(missing)} missing: {_names(missing)}")
    if extra:
        problems.append(f"{len(extra)} that it does not have: {_names(extra)}")
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_names(wrong)}")
    if problems:
        raise ConversionError(
            f"{path}: not the weights of a {network} with these arguments; "
            + "; ".join(problems)
            + ". Compare hidden_layers, "
            "hidden_size, max_seq_length and the embedding sizes of arguments.json with those of the training"
        )


def _write(model: MobilityBertPreTrainedModel, output: Path, source: dict[str, Any]) -> None:
    """Write model, processor and what they were made from."""
    with new_folder(output) as aside:
        model.save_pretrained(aside)
        # The published numbering of days and weekdays is the processor's default calendar.
        config = model.config
        MobilityProcessor(
            grid_width=config.grid_width,
            grid_height=config.grid_height,
            cell_km=config.cell_km,
            num_days=config.num_days,
            num_slots=config.num_slots,
        ).save_pretrained(aside)
        (aside / "conversion.json").write_text(json.dumps(source, indent=2) + "\n")


def _names(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _description(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict with {_names([str(name) for name in value])}" if value else "an empty dict"
    return f"a {type(value).__name__}"
