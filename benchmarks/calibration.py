"""Are the probabilities true, and what do the experts do? For a saved model and users whose days it has not seen.

Those are the users that its run held out, or everybody if the folder of the model is of no run of this city.

    python benchmarks/calibration.py --model runs/accuracy/cityB-seed1 --city B --data_dir DIR

The probabilities are those that forecasts tell, after the temperature of the model. Prints, over all asked-for records
from the cut day on: a reliability table of the most probable cell, top-k accuracy, the entropy of the distribution
beside how far off the most probable cell is, and the share of records of each kind that each expert gets (an expert
that sees all kinds alike has specialised in nothing that is named here).
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from common import arguments, row, table
from stmoe_hf.data.city import City, open_city
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.decoding import temper
from stmoe_hf.model.records import CELL, DAY_OFF, SLOT

EDGES = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
TOP = (1, 3, 5, 10)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--city", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cut_day", type=int)
    args = parser.parse_args()
    model, processor = AutoModel.from_pretrained(args.model).eval(), AutoProcessor.from_pretrained(args.model)
    city = open_city(args.city, args.data_dir)
    cut_day = city.edition.cut_day if args.cut_day is None else args.cut_day
    rows, field = rows_to_score(args.model, city), getattr(model.config, "city_field", False)
    windows = PredictionWindows(city, rows, cut_day, WindowShape(), processor, city_field=field)
    best, hit, entropy, distance = [], [], [], []
    loads: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for window in range(len(windows)):
            batch = processor.pad([windows[window]])
            output = model(**batch, num_candidates=32, output_router_logits=True)
            true = torch.as_tensor(windows.asked_for(window)["cell"])
            told = temper(
                output.logits[:, : len(true)], output.candidates, city.grid.num_cells, model.config.temperature
            )
            probability = told[0]
            order = probability.argsort(-1, descending=True)
            cells = output.candidates[0][order[:, : max(TOP)]]
            best.append(probability.gather(1, order[:, :1])[:, 0])
            hit.append(cells == true[:, None])
            entropy.append(torch.special.entr(probability).sum(-1))
            (x, y), (true_x, true_y) = city.grid.xy(cells[:, 0]), city.grid.xy(true)
            distance.append(torch.hypot((x - true_x).float(), (y - true_y).float()) * city.grid.cell_km)
            for kind, is_kind in kinds_of_records(batch["inputs"][0], city).items():
                if output.router_logits:  # a network without experts has none
                    loads[kind] = loads.get(kind, 0) + expert_counts(output.router_logits, is_kind, model.config)
    best_, hit_ = torch.cat(best).numpy(), torch.cat(hit).numpy()
    entropy_, distance_ = torch.cat(entropy).numpy(), torch.cat(distance).numpy()
    print(f"{args.model}: city {args.city}, {len(windows)} users, {len(best_):,} records from day {cut_day} on\n")
    table("probability of the best cell", "records", "mean probability", "share that is right")
    bins = np.clip(np.digitize(best_, EDGES) - 1, 0, len(EDGES) - 2)
    for number in np.unique(bins):
        inside = bins == number
        low, high = EDGES[number], EDGES[number + 1]
        right = hit_[inside, 0].mean()
        row(f"{low:.1f} - {high:.1f}", f"{inside.sum():,}", f"{best_[inside].mean():.3f}", f"{right:.3f}")
    print()
    table("", *(f"top {k}" for k in TOP))
    row("accuracy", *(f"{hit_[:, :k].any(1).mean():.3f}" for k in TOP))
    print()
    table("entropy (nats), fifths of the records", "mean", "accuracy", "mean distance km")
    for number, part in enumerate(np.array_split(np.argsort(entropy_, kind="stable"), 5), 1):
        mean, accuracy, off = entropy_[part].mean(), hit_[part, 0].mean(), distance_[part].mean()
        row(number, f"{mean:.2f}", f"{accuracy:.3f}", f"{off:.2f}")
    if not loads:
        return
    layers, experts = next(iter(loads.values())).shape
    for layer in range(layers):
        print()
        table(f"layer {layer}, share of choices", *(f"expert {e}" for e in range(experts)))
        for kind, load in loads.items():
            share = load[layer] / load[layer].sum()
            row(kind, *(f"{value:.2f}" for value in share.tolist()))


def rows_to_score(model: str, city: City) -> np.ndarray:
    """Rows of the users that the model's run held out (all, without a run of this city) and whose cells are known."""
    scored = city.masked_counts == 0
    record = Path(model) / "run.json"
    if record.exists():
        run = json.loads(record.read_text())
        if run["city"]["name"] == city.name:
            scored &= np.isin(city.uids, run["held_out_uids"])
    if not scored.any():
        raise SystemExit(f"error: the run of {model} held nobody out, or all cells to predict are masked")
    return np.flatnonzero(scored)


def kinds_of_records(inputs: torch.Tensor, city) -> dict[str, torch.Tensor]:
    """[T] masks of the records [T, 6] of a window, by name."""
    slot, asked = inputs[:, SLOT] * 24 // city.calendar.num_slots, inputs[:, CELL] == city.grid.mask_id
    off = inputs[:, DAY_OFF] == 1
    return {
        "asked for": asked,
        "history": ~asked,
        "night, 0-6 h": slot < 6,
        "morning, 6-12 h": (slot >= 6) & (slot < 12),
        "afternoon, 12-18 h": (slot >= 12) & (slot < 18),
        "evening, 18-24 h": slot >= 18,
        "working day": ~off,
        "day off": off,
    }


def expert_counts(router_logits, is_kind: torch.Tensor, config) -> torch.Tensor:
    """[layers, E] choices of the records of a kind."""
    counts = []
    for logits in router_logits:
        chosen = logits[is_kind].topk(config.num_experts_per_tok, dim=-1).indices
        counts.append(torch.bincount(chosen.flatten(), minlength=config.num_experts))
    return torch.stack(counts)


if __name__ == "__main__":
    main()
