"""The report: one HTML file that opens without a network."""

from __future__ import annotations

import html
import importlib.resources
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.errors import DataError
from ..data.files import open_aside
from ..metrics import Scores
from .errors import by_kind, calibration, interval, record_errors, scores_of
from .evidence import Evidence, of_files, of_run
from .limits import limits
from .maps import aspect, axis_titles, city_map, person_data, unit_km

MOST_BYTES = 15_000_000
MOST_PEOPLE = 200  # whose days a page holds; the best, median and worst are always among them
OSM = "https://tile.openstreetmap.org/{z}/{x}/{y}.png"
OWN = "this forecast"
KINDS = {
    "hour": "By hour",
    "weekday": "By weekday",
    "days ahead": "By days ahead",
    "km from home": "By distance from home",
    "past records": "By number of past records",
    "cell": "New against known cells",
}
COLUMNS = [
    ("humob2024", "geobleu", "GEO-BLEU 2024", 4),
    ("humob2024", "dtw", "DTW km 2024", 2),
    ("humob2025", "geobleu", "GEO-BLEU 2025", 4),
    ("humob2025", "dtw", "DTW km 2025", 2),
    ("humob2024", "accuracy", "accuracy", 3),
]


def write_report(
    source: str | Path | Evidence,
    output: str | Path,
    *,
    truth: str | Path | None = None,
    data: str | Path | None = None,
    edition: str | None = None,
    anonymous: bool = False,
    most_people: int = MOST_PEOPLE,
    tiles: str | None = None,
) -> Path:
    """Write the report of a run or of a forecast.

    Args:
        source: folder of a run; or a file of predictions or of a forecast; or the evidence itself.
        output: the HTML file.
        truth, data, edition: of a file, as of `evidence.of_files`.
        anonymous: numbers drawn anew in place of uids and names.
        most_people: whose days can be picked.
        tiles: address of a server's tiles of streets, with {z}, {x} and {y}, such as `OSM`; the page then asks it for
            the places that it shows. Unset: none, and the page needs no network.

    Returns:
        The file.

    Raises:
        DataError, FileNotFoundError: naming what is missing or wrong. ImportError: plotly is missing.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"the folder {output.parent} for --output does not exist")
    if isinstance(source, Evidence):
        evidence = source
    elif Path(source).is_dir():
        evidence = of_run(source)
    else:
        evidence = of_files(source, truth, data, edition)
    if tiles is not None:
        refuse_tiles(tiles, evidence)
    text = page(evidence.anonymous() if anonymous else evidence, most_people, tiles)
    with open_aside(output) as file:
        file.write(text)
    return output


def refuse_tiles(tiles: str, evidence: Evidence) -> None:
    """Raise DataError if a map cannot have these tiles below it."""
    if not tiles.startswith(("https://", "http://")) or any(part not in tiles for part in ("{z}", "{x}", "{y}")):
        raise DataError(f"tiles {tiles!r} must be an address with {{z}}, {{x}} and {{y}}, such as {OSM}")
    if evidence.place is None:
        raise DataError("tiles lie in degrees, and no city.json says where the city lies")


def page(evidence: Evidence, most_people: int = MOST_PEOPLE, tiles: str | None = None) -> str:
    """The HTML text of a report; with fewer people than asked for where it would be larger than 15 MB."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    while True:
        text = _page(evidence, most_people, script, tiles)
        if len(text.encode()) <= MOST_BYTES:
            return text
        if most_people <= 3:
            raise DataError(f"the report would be larger than {MOST_BYTES // 10**6} MB; ask for fewer days or people")
        most_people //= 2


def _page(evidence: Evidence, most_people: int, script: str, tiles: str | None) -> str:
    from .figures import calibration_chart, errors_chart, expert_charts, training_charts

    scores, errors = _scores(evidence), None
    sections: list[tuple[str, str, list[tuple[str, Any]]]] = []  # title, text before, charts
    if evidence.truth is not None:
        errors = record_errors(evidence.predicted, evidence.truth, evidence.history, evidence.grid, evidence.calendar)
        charts = [
            (title, errors_chart(by_kind(errors, kind), kind, kind != "cell"))
            for kind, title in KINDS.items()
            if kind in errors
        ]
        off, hit = errors["off_km"], errors["hit"].mean()
        text = (
            f"Mean distance between forecast and true cell: {off.mean():.2f} km (median {off.median():.2f}); the right"
            f" cell {hit:.1%} of the time. Whiskers: 95 % intervals, people drawn with replacement."
        )
        sections.append(("Where it errs", text, charts))
        calibrated = calibration(evidence.places, evidence.truth)
        if calibrated is not None:
            text = "Of the slots in which the most probable cell is said to be so probable, how often it is right."
            sections.append(("Are its probabilities true?", text, [("", calibration_chart(calibrated))]))
    if evidence.experts is not None:
        text = "Share of the choices of each kind of record that went to each expert. Alike rows: nothing specialised."
        sections.append(("What the experts do", text, expert_charts(evidence.experts)))
    if evidence.log and (charts := training_charts(evidence.log)):
        sections.append(("Training", "", charts))
    people, picker = _people(evidence, scores, most_people)
    told: dict[str, Any] = {
        "axes": axis_titles(evidence),
        "aspect": aspect(evidence),
        "unit_km": unit_km(evidence),
        "tiles": tiles,
        "map": city_map(evidence),
        "people": people,
        "charts": [],
    }
    body = [_head(evidence, scores), _city_section(evidence, told["map"]), picker]
    if tiles == OSM:
        body.append("<p class=faint>Streets: &copy; OpenStreetMap contributors</p>")
    for title, text, charts in sections:
        body.append(_section(title, text, charts, told["charts"]))
    sentences = limits(evidence, scores, errors, len(people))
    body.append("<h2>What not to conclude from this</h2>\n<ul class=limits>")
    body += [f"<li>{html.escape(sentence)}</li>" for sentence in sentences] + ["</ul>"]
    files = importlib.resources.files("stmoe_hf.report")
    style, code = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    numbers = json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = html.escape(evidence.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n<script>{script}</script></head>\n<body>\n" + "\n".join(body) + "\n"
        f'<script type="application/json" id="told">{numbers}</script>\n<script>\n{code}</script>\n</body></html>\n'
    )


def _scores(evidence: Evidence) -> dict[str, dict[str, Scores]]:
    """system -> edition -> scores; empty without a truth."""
    if evidence.truth is None:
        return {}
    systems = {OWN: evidence.predicted, **evidence.baselines}
    return {name: scores_of(table, evidence.truth, evidence.grid) for name, table in systems.items()}


def _head(evidence: Evidence, scores: dict[str, dict[str, Scores]]) -> str:
    predicted = evidence.predicted
    days = predicted["d"]
    about = evidence.about | {
        "shown": f"{predicted['uid'].nunique():,} people, {len(predicted):,} slots of days {days.min()}-{days.max()}",
        "written": time.strftime("%Y-%m-%d"),
    }
    lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in about.items())
    text = f"<h1>{html.escape(evidence.title)}</h1>\n<dl>{lines}</dl>"
    return text + (_score_table(scores) if scores else "\n<p>The truth is not known here, so nothing is scored.</p>")


def _score_table(scores: dict[str, dict[str, Scores]]) -> str:
    some = next(iter(scores.values()))["humob2024"]
    head = "".join(f"<th>{title}</th>" for _, _, title, _ in COLUMNS)
    rows = []
    for name, of_edition in scores.items():
        cells = []
        for edition, measure, _, digits in COLUMNS:
            found = interval(of_edition[edition].per_user[measure].to_numpy())
            between = f"{found.low:.{digits}f} to {found.high:.{digits}f}"
            cells.append(f"<td>{found.mean:.{digits}f}<small>{between}</small></td>")
        own = " class=own" if name == OWN else ""
        rows.append(f"<tr{own}><td>{html.escape(name.replace('_', ' '))}</td>{''.join(cells)}</tr>")
    return (
        f'\n<h2>Scores</h2>\n<p class="faint">Means over {some.users:,} people and their {some.days:,} days, with 95 %'
        " intervals over people. GEO-BLEU and accuracy: higher is better; DTW: lower. The two editions of the metrics"
        " cannot be compared with each other.</p>\n"
        f'<div class="scroll"><table class="scores"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _city_section(evidence: Evidence, drawn: dict[str, Any]) -> str:
    names = ["forecast", *([] if drawn["truth"] is None else ["truth", "difference"])]
    maps = "".join(f'<div><h3>{name.capitalize()}</h3><div id="map-{name}"></div></div>' for name in names)
    size = drawn["side"] * evidence.grid.cell_km
    how = "expected from the probabilities" if drawn["by_probability"] else "each in the one cell that was forecast"
    kind = "pair" if len(names) == 1 else "charts"
    seen = "" if drawn["truth"] is None else " Only the slots in which somebody was seen are counted."
    busiest = int(np.argmax([sum(people) for _, people in (drawn["truth"] or drawn["forecast"])]))
    return (
        f'<h2>The city</h2>\n<p class="faint">People by square of {size:g} km and hour, {how}.{seen}'
        f" {drawn['outside']:.1%} of the slots lie beyond the edges.</p>\n"
        '<div class="bar"><button id="hour-back" aria-label="an hour back">&#8249;</button>'
        f'<input type="range" id="hour" min="0" max="{len(drawn["hours"]) - 1}" value="{busiest}" aria-label="hour">'
        '<button id="hour-on" aria-label="an hour on">&#8250;</button><output id="hour-label"></output></div>\n'
        f'<div class="{kind}">{maps}</div>'
    )


def _people(evidence: Evidence, scores: dict[str, dict[str, Scores]], most: int) -> tuple[list[dict[str, Any]], str]:
    """The people that can be picked, and the section that shows one: the best, the median and the worst first."""
    order, values = _ranked(evidence, scores)
    first = list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))
    spread = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(int))]
    uids = [*first, *sorted(set(spread) - set(first))][: max(most, len(first))]
    roles = dict(
        zip(first, ("best", "median", "worst") if scores else ("most slots", "median", "fewest"), strict=False)
    )

    def option(number: int, uid: int) -> str:
        label = f"{roles[uid]}: " if uid in roles else ""
        label += f"{evidence.name(uid)}, {values[uid]}"
        return f'<option value="{number}">{html.escape(label)}</option>'

    options = [option(number, uid) for number, uid in enumerate(uids)]
    groups = f'<optgroup label="Offered first">{"".join(options[: len(first)])}</optgroup>'
    groups += f'<optgroup label="Others">{"".join(options[len(first) :])}</optgroup>' if uids[len(first) :] else ""
    some = "" if len(uids) == len(order) else f" {len(uids):,} of the {len(order):,} people can be picked."
    text = (
        "<h2>A person</h2>\n<p class=faint>Earlier days (grey, the larger the more often), the forecast of a day (the"
        f" larger the more probable) and the truth, as paths in time.{some}</p>\n"
        f'<div class="bar"><select id="person" aria-label="person">{groups}</select>'
        '<button id="day-back" aria-label="a day back">&#8249;</button><select id="day" aria-label="day"></select>'
        '<button id="day-on" aria-label="a day on">&#8250;</button></div>\n'
        '<div class="pair"><div><div id="person-map"></div></div><div><div id="person-time"></div></div></div>'
    )
    return [person_data(evidence, uid) for uid in uids], text


def _ranked(evidence: Evidence, scores: dict[str, dict[str, Scores]]) -> tuple[list[int], dict[int, str]]:
    """uids, best first, and what is said of each."""
    if scores:
        table = scores[OWN]["humob2024"].per_user.sort_values("geobleu", ascending=False)
        said = {int(uid): f"GEO-BLEU {value:.3f}" for uid, value in zip(table["uid"], table["geobleu"], strict=True)}
    else:
        counts: pd.Series = evidence.predicted.groupby("uid").size().sort_values(ascending=False)
        said = {int(uid): f"{count:,} slots" for uid, count in counts.items()}  # type: ignore[call-overload]
    return list(said), said


def _section(title: str, text: str, charts: list[tuple[str, Any]], drawn: list[dict[str, Any]]) -> str:
    """A section of charts, which are added to those that the page draws."""
    parts = []
    for name, figure in charts:
        number = f"chart-{len(drawn)}"
        drawn.append({"id": number, "figure": json.loads(figure.to_json())})
        heading = f"<h3>{html.escape(name)}</h3>" if name else ""
        parts.append(f'<div>{heading}<div id="{number}"></div></div>')
    return f'<h2>{title}</h2>\n<p class="faint">{text}</p>\n<div class="charts">{"".join(parts)}</div>'
