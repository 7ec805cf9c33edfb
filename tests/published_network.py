"""The published networks in plain torch, for the tests: random weights in their layout, and their logits.

Cells, weekdays and weekend flags are numbered here as in the published system, not as in the package.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ARGUMENTS = {
    "num_location_ids": 12,
    "hidden_size": 24,
    "hidden_layers": 2,
    "attention_heads": 4,
    "day_embedding_size": 5,
    "time_embedding_size": 4,
    "day_of_week_embedding_size": 3,
    "weekday_embedding_size": 2,
    "location_embedding_size": 6,
    "dropout": 0.1,
    "max_seq_length": 20,
}
WIDTH, HEIGHT = 4, 3
NETWORKS = ("MobilityBERT", "MobilityBERTMoE")
EXPERTS = 3


def random_weights(network: str, intermediate: int = 40, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as the published code would save it."""
    hidden, cells = ARGUMENTS["hidden_size"], ARGUMENTS["num_location_ids"]
    tables = {"day": 75, "time": 48, "day_of_week": 7, "weekday": 2, "location": cells}
    shapes = {f"{name}_embedding.weight": (rows, ARGUMENTS[f"{name}_embedding_size"]) for name, rows in tables.items()}
    width = 1 + sum(shape[1] for shape in shapes.values())

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    norm("layer_norm", width)
    linear("input_projection", hidden, width)
    linear("residual_fc", hidden, width)
    for part in ("query", "key", "value", "dense"):
        linear(f"self_attention.{part}", hidden, hidden)
    norm("self_attention.layer_norm", hidden)
    for name, rows in (("word", 1), ("position", ARGUMENTS["max_seq_length"]), ("token_type", 2)):
        shapes[f"bert.embeddings.{name}_embeddings.weight"] = (rows, hidden)
    norm("bert.embeddings.LayerNorm", hidden)
    for index in range(ARGUMENTS["hidden_layers"]):
        layer = f"bert.encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm", hidden)
        linear(f"{layer}.intermediate.dense", intermediate, hidden)
        linear(f"{layer}.output.dense", hidden, intermediate)
        norm(f"{layer}.output.LayerNorm", hidden)
    linear("bert.pooler.dense", hidden, hidden)
    if network == "MobilityBERTMoE":
        linear("moe.gate", EXPERTS, hidden)
        for expert in range(EXPERTS):
            linear(f"moe.experts.{expert}.fc", hidden, hidden)
    linear("output_projection", cells, hidden)
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def random_records(rows: int = 3, known: int = 9, asked: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Published features [rows, known + asked, 6] (day, slot, uid, weekday, weekend, delta), cells [rows, known]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, known + asked)
    time = torch.randint(75 * 48, shape, generator=generator).sort(dim=1).values
    day, slot = time // 48, time % 48
    weekday = day % 7
    weekend = ((weekday == 6) | (weekday == 0)).long()
    delta = time.diff(dim=1, prepend=time[:, :1])
    features = torch.stack([day, slot, torch.full(shape, 17), weekday, weekend, delta], dim=-1)
    return features, torch.randint(ARGUMENTS["num_location_ids"], (rows, known), generator=generator)


def plain_logits(weights: dict[str, Tensor], features: Tensor, cells: Tensor, heads: int, bert_heads: int) -> Tensor:
    """Logits [rows, asked, cells] of the records that follow the known cells, record by record of the description."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(query: str, key: str, value: str, x: Tensor, num_heads: int) -> Tensor:
        q, k, v = (linear(name, x).chunk(num_heads, dim=-1) for name in (query, key, value))
        return torch.cat(
            [((q[i] @ k[i].transpose(1, 2)) / q[i].shape[-1] ** 0.5).softmax(-1) @ v[i] for i in range(num_heads)],
            dim=-1,
        )

    table = weights["location_embedding.weight"]
    nowhere = torch.zeros(len(cells), features.shape[1] - cells.shape[1], table.shape[1])
    x = torch.cat(
        [
            weights["day_embedding.weight"][features[..., 0]],
            weights["time_embedding.weight"][features[..., 1]],
            weights["day_of_week_embedding.weight"][features[..., 3]],
            weights["weekday_embedding.weight"][features[..., 4]],
            features[..., 5:].float(),
            torch.cat([table[cells], nowhere], dim=1),
        ],
        dim=-1,
    )
    x = norm("layer_norm", x, 1e-5)
    x = linear("input_projection", x) + linear("residual_fc", x)
    name = "self_attention"
    seen = attention(f"{name}.query", f"{name}.key", f"{name}.value", x, heads)
    x = norm(f"{name}.layer_norm", x + linear(f"{name}.dense", seen), 1e-5)

    name = "bert.embeddings"
    x = (
        x
        + weights[f"{name}.position_embeddings.weight"][: x.shape[1]]
        + weights[f"{name}.token_type_embeddings.weight"][0]
    )
    x = norm(f"{name}.LayerNorm", x, 1e-12)
    for index in range(ARGUMENTS["hidden_layers"]):
        name = f"bert.encoder.layer.{index}"
        part = f"{name}.attention.self"
        seen = attention(f"{part}.query", f"{part}.key", f"{part}.value", x, bert_heads)
        x = norm(f"{name}.attention.output.LayerNorm", x + linear(f"{name}.attention.output.dense", seen), 1e-12)
        inner = F.gelu(linear(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", inner), 1e-12)
    if "moe.gate.weight" in weights:
        gate = linear("moe.gate", x).softmax(-1)
        x = sum(gate[..., e, None] * F.gelu(linear(f"moe.experts.{e}.fc", x)) for e in range(gate.shape[-1]))
    return linear("output_projection", x[:, cells.shape[1] :])


def project_inputs(features: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """Published features and cells -> the package's `inputs`; the cells' numbering is left as it is."""
    asked = torch.full((len(cells), features.shape[1] - cells.shape[1]), num_cells)
    weekday = (features[..., 3] + 6) % 7  # published: Sunday 0; here: Monday 0
    columns = [features[..., 0], features[..., 1], weekday, features[..., 4], features[..., 5]]
    return torch.stack([*columns, torch.cat([cells, asked], dim=1)], dim=-1)
