"""The report's figures, as plotly JSON. Only numbers and our own words go in; no model text ever does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

Row = Mapping[str, Any]

_COLOURS = ("#d1495b", "#2e86ab", "#edae49", "#3a7d44", "#8d6a9f", "#6c757d")
_SHADE = {"attacker": "rgba(209, 73, 91, 0.10)", "defender": "rgba(46, 134, 171, 0.10)"}


def curves(rows: Sequence[Row]) -> list[tuple[str, str, go.Figure]]:
    """Titles, descriptions and figures of what happened step by step."""
    play = [row for row in rows if row["stage"] == "play"]
    supervised = [row for row in rows if row["stage"] != "play"]
    out = []
    if play:
        rates = {
            "attack success (harmful seeds)": "asr",
            "refused, harmful seeds": "refusal_harmful",
            "refused, benign seeds": "refusal_benign",
        }
        out.append(
            (
                "Attack success and refusals",
                "Shares of each step's training episodes. Blue background: the defender learns; red: the attacker.",
                _lines(play, rates, percent=True),
            )
        )
        rewards = {"defender": "reward_defender", "attacker": "reward_attacker"}
        out.append(("Rewards", "Mean reward of an episode for each player.", _lines(play, rewards)))
        health = {
            "attacks in the required format": "format_rate",
            "groups with a learning signal": "groups_with_signal",
        }
        figure = _lines(play, health, percent=True)
        for name, key in (("cut off", "masked_cut_off"), ("judge abstained", "masked_abstained")):
            figure.add_scatter(
                x=[row["step"] for row in play],
                y=[row[key] / max(1, row["episodes"]) for row in play],
                name=name,
                mode="lines",
                line={"dash": "dot"},
            )
        out.append(("Health", "Format, signal, and the shares of episodes masked out of the loss.", figure))
    if supervised:
        figure = go.Figure()
        for stage, name in (("sft_attacker", "attacker SFT"), ("warmup_defender", "defender warm-up")):
            own = [row for row in supervised if row["stage"] == stage]
            if own:
                figure.add_scatter(x=[row["stage_step"] for row in own], y=[row["loss"] for row in own], name=name)
        out.append(("Supervised stages", "Cross-entropy a token, in nats.", _styled(figure, "step of the stage")))
    return out


def heatmap(evaluation: Mapping[str, Any], measure: str) -> go.Figure:
    """Attackers (rows) against defenders (columns); the interval of a cell shows when pointed at."""
    cells = evaluation[measure]
    figure = go.Figure(
        go.Heatmap(
            z=[[cell["rate"] for cell in row] for row in cells],
            x=evaluation["defenders"],
            y=evaluation["attackers"],
            text=[[f"{cell['rate']:.0%}<br>n={cell['n']}" for cell in row] for row in cells],
            customdata=[[f"{cell['low']:.1%} – {cell['high']:.1%}" for cell in row] for row in cells],
            texttemplate="%{text}",
            hovertemplate="attacker %{y}<br>defender %{x}<br>%{z:.1%}, 95 % interval %{customdata}<extra></extra>",
            zmin=0,
            zmax=1,
            colorscale="Reds" if measure == "asr" else "Blues",
            showscale=False,
        )
    )
    figure.update_yaxes(autorange="reversed", title="attacker")
    return _styled(figure, "defender", height=max(260, 90 + 52 * len(cells)))


def drift_bars(shares: Mapping[int, Mapping[str, float]], families: Mapping[str, str]) -> go.Figure:
    """For each round, how its attacks' classes are distributed over the families."""
    figure = go.Figure()
    for family in dict.fromkeys(families.values()):
        totals = {n: sum(row.values()) or 1.0 for n, row in shares.items()}
        own = [
            sum(share for name, share in row.items() if families[name] == family) / totals[n]
            for n, row in shares.items()
        ]
        figure.add_bar(x=[f"round {n}" for n in shares], y=own, name=family)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(tickformat=".0%")
    return _styled(figure, "")


def _lines(rows: Sequence[Row], series: Mapping[str, str], *, percent: bool = False) -> go.Figure:
    figure = go.Figure()
    for name, key in series.items():
        figure.add_scatter(
            x=[row["step"] for row in rows], y=[row[key] for row in rows], name=name, mode="lines+markers"
        )
    begin = 0
    for i, row in enumerate(rows):
        last = i + 1 == len(rows)
        if last or rows[i + 1]["learner"] != row["learner"]:
            figure.add_vrect(
                rows[begin]["step"] - 0.5,
                row["step"] + 0.5,
                fillcolor=_SHADE[row["learner"]],
                line_width=0,
                layer="below",
            )
            begin = i + 1
    if percent:
        figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    return _styled(figure, "step")


def _styled(figure: go.Figure, x_title: str, height: int = 320) -> go.Figure:
    figure.update_layout(
        colorway=_COLOURS,
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": -0.2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis_title=x_title,
        template="none",
    )
    figure.update_xaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    return figure
