"""The charts of a report, as plotly figures: colours come from the page, which is light or dark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .colours import FORECAST, GREY, TRUTH  # a dark page has others in their place (page.js)

CHART_HEIGHT = 260


def errors_chart(table: pd.DataFrame, title: str, ordered: bool = True) -> go.Figure:
    """Mean kilometres off and share of hits of each kind of record, with 95 % intervals; columns as of `by_kind`."""
    axis, measures = "y", (("off_km", "km off", FORECAST, "circle"), ("hit", "share of hits", TRUTH, "diamond"))
    figure = go.Figure()
    for name, label, colour, symbol in measures:
        shown = "%{y:.2f}" if name == "off_km" else "%{y:.1%}"
        figure.add_scatter(
            x=table["kind"].tolist(),
            y=table[name].round(4).tolist(),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (table[f"{name}_high"] - table[name]).round(4).tolist(),
                "arrayminus": (table[name] - table[f"{name}_low"]).round(4).tolist(),
                "thickness": 1,
                "width": 2,
            },
            customdata=table[["records", "people"]].to_numpy().tolist(),
            hovertemplate=f"{title} %{{x}}: {shown} {label}<br>%{{customdata[0]:,}} records of %{{customdata[1]}}"
            " people<extra></extra>",
            name=label,
            mode="markers+lines" if ordered else "markers",
            line={"width": 1.5, "color": colour},
            marker={"size": 6, "symbol": symbol, "color": colour},
            yaxis=axis,
        )
        axis = "y2"
    figure.update_layout(
        yaxis={"title": {"text": "km off"}, "rangemode": "tozero"},
        yaxis2={
            "title": {"text": "hits"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "tickformat": ".0%",
        },
        xaxis={"type": "category", "title": {"text": title}, "tickangle": 0, "dtick": 1 + len(table) // 12},
    )
    return _sized(figure)


def calibration_chart(table: pd.DataFrame) -> go.Figure:
    """How often the most probable cell is right, by its probability."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="as it should be", hoverinfo="skip", line={"color": GREY, "dash": "dot"}
    )
    figure.add_scatter(
        x=table["probability"].round(4).tolist(),
        y=table["right"].round(4).tolist(),
        customdata=table["records"].tolist(),
        mode="markers+lines",
        name="here",
        line={"color": FORECAST, "width": 1.5},
        marker={"size": np.clip(np.sqrt(table["records"]) / 3, 5, 18).round(1).tolist(), "color": FORECAST},
        hovertemplate="said %{x:.0%}, right %{y:.0%} of %{customdata:,}<extra></extra>",
    )
    figure.update_layout(
        xaxis={"title": {"text": "probability of the most probable cell"}, "range": [0, 1], "tickformat": ".0%"},
        yaxis={"title": {"text": "how often it is right"}, "range": [0, 1.02], "tickformat": ".0%", "nticks": 5},
    )
    return _sized(figure)


def expert_charts(table: pd.DataFrame) -> list[tuple[str, go.Figure]]:
    """A heatmap a layer: which share of each kind of record goes to which expert."""
    charts = []
    highest = float(table["share"].max())
    for layer, part in table.groupby("layer"):
        wide = part.pivot(index="kind", columns="expert", values="share").loc[part["kind"].unique()[::-1]]
        figure = go.Figure(
            go.Heatmap(
                z=wide.to_numpy().round(4).tolist(),
                x=[str(expert) for expert in wide.columns],
                y=wide.index.tolist(),
                zmin=0,
                zmax=round(highest, 4),
                texttemplate="%{z:.0%}",
                hovertemplate="%{y}: %{z:.1%} to expert %{x}<extra></extra>",
                showscale=False,
            )
        )
        figure.update_layout(xaxis={"title": {"text": "expert"}, "type": "category"}, yaxis={"automargin": True})
        charts.append((f"Layer {layer}", _sized(figure, 300)))
    return charts


def training_charts(log: list[dict[str, Any]]) -> list[tuple[str, go.Figure]]:
    """Loss, scores of the people evaluated during training, and the load of the experts, by epoch."""
    table = pd.DataFrame(log)
    wanted = {
        "Loss": {"loss": "training loss", "eval_nll": "negative log-likelihood, evaluated people"},
        "GEO-BLEU of the evaluated people": {
            "eval_humob2024_geobleu": "edition humob2024",
            "eval_humob2025_geobleu": "edition humob2025",
        },
        "Load of the experts": {"expert_load_max": "busiest expert", "expert_load_min": "idlest expert"},
    }
    charts = []
    for title, lines in wanted.items():
        figure = go.Figure()
        for (name, label), colour in zip(lines.items(), (FORECAST, TRUTH), strict=True):
            known = table[table[name].notna()] if name in table else table[:0]
            if len(known):
                style = {"line": {"color": colour, "width": 1.5}, "marker": {"color": colour, "size": 5}}
                x, y = known["epoch"].round(3).tolist(), known[name].round(5).tolist()
                figure.add_scatter(x=x, y=y, name=label, mode="lines+markers", **style)
        if figure.data:
            figure.update_layout(xaxis={"title": {"text": "epoch"}})
            charts.append((title, _sized(figure)))
    return charts


def _sized(figure: go.Figure, height: int = CHART_HEIGHT) -> go.Figure:
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 48, "r": 48, "t": 8, "b": 44},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    return figure
