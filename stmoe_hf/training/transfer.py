"""From city to city: what of a trained model is kept, frozen or begun anew, and which city is which.

What a city's cell ids stand for is that city's own; time, routines and a person's own history read the same anywhere
(docs/transfer.md).
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

CELL_TABLE = "cell_table"
ANYWHERE = ("router", "experts", "city")  # parts that lie within others


def cell_tables(model: PreTrainedModel) -> list[nn.Module]:
    """The parts of a model that have a row for each cell of a grid: of the embedding, and of the output."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [table for table in tables if table is not None]


def freezable_parts(model: PreTrainedModel) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part that can be frozen, by its name.

    Parts are the modules at the top of the network (for STMoEBert embeddings, encoder, and its heads), `cell_table`
    (what has a row for each cell, in and out), and `router`, `experts` and `city` wherever they lie.
    """
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        path = name.removeprefix(f"{model.base_model_prefix}.").split(".")
        for part in {path[0], *(within for within in ANYWHERE if within in path)}:
            found.setdefault(part, []).append(parameter)
    if tables := cell_tables(model):
        found[CELL_TABLE] = [parameter for table in tables for parameter in table.parameters()]
    return found


def freeze(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Keep parts of a model as they are in training.

    Raises:
        ValueError: naming the parts that the model does not have, or that nothing is left to train.
    """
    found = freezable_parts(model)
    if unknown := [name for name in names if name not in found]:
        raise ValueError(
            f"freeze names {', '.join(unknown)}; the parts of this {type(model).__name__} are"
            f" {', '.join(sorted(found))}"
        )
    for name in names:
        for parameter in found[name]:
            parameter.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze names {', '.join(names)}: nothing is left to train")


@torch.no_grad()
def begin_cell_table_anew(model: PreTrainedModel, seed: int) -> bool:
    """Draw new rows for all cells, in the embedding and in the output; the rows of asked-for records and padding stay.

    Returns:
        Whether the model has such a table.
    """
    set_seed(seed)
    std, num_cells = model.config.initializer_range, model.config.num_cells
    for table in cell_tables(model):
        table.weight[:num_cells].normal_(0.0, std)  # type: ignore[union-attr, operator, index]
        if isinstance(table, nn.Linear) and table.bias is not None:
            table.bias.zero_()
    return bool(cell_tables(model))
