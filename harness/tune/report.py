"""What a study found, to read and to look at: importances, Optuna's own plots, one HTML page."""

from __future__ import annotations

import html
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from harness.tune.fairness import curve_of

REPORT = "report.html"
MIN_TRIALS = 4
"""Complete trials below which no importance is given."""


def importances(study: optuna.Study, target: int = 0) -> list[dict[str, Any]]:
    """fANOVA importance of each parameter, highest first. `n_trials`: those it rests on, where it was proposed."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS:
        return []
    named = {name for t in complete for name in t.params}
    common = {name for name in named if all(name in t.params for t in complete)}
    found = []
    for name in sorted(named):
        params = sorted(common | {name})
        having = [t for t in complete if name in t.params]
        varied = len({t.params[name] for t in having}) > 1
        if len(having) < MIN_TRIALS or not varied:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = get_param_importances(
                study, evaluator=FanovaImportanceEvaluator(seed=0), params=params, target=lambda t: t.values[target]
            )
        found.append({"parameter": name, "importance": shares[name], "n_trials": len(having)})
    return sorted(found, key=lambda f: -f["importance"])


def transfer(study: optuna.Study) -> dict[str, Any] | None:
    """Rank correlation between what proposals were worth in the study they come from and what they are worth here."""
    pairs = [
        (t.user_attrs["from_value"], t.values[0])
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if "from_value" in t.user_attrs
    ]
    if len(pairs) < 3:
        return None
    from scipy.stats import spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rho = spearmanr([a for a, _ in pairs], [b for _, b in pairs])
    return {"n": len(pairs), "spearman": float(rho.statistic), "p": float(rho.pvalue)}


def write_report(study: optuna.Study, summary: dict[str, Any], folder: Path) -> list[Path]:
    """report.html, self-contained, and its main plots as PNG; returns the paths."""
    figures = plotly_figures(study, summary)
    parts = [head(summary)]
    for i, (title, figure) in enumerate(figures.items()):
        parts.append(f"<h2>{html.escape(title)}</h2>")
        parts.append(f"<div class=figure>{figure.to_html(full_html=False, include_plotlyjs=i == 0)}</div>")
    path = folder / REPORT
    path.write_text("\n".join([*parts, "</main></body></html>"]))
    return [path, *draw_pngs(study, summary, folder)]


def plotly_figures(study: optuna.Study, summary: dict[str, Any]) -> dict[str, Any]:
    from optuna import visualization as plots

    metrics = [o["metric"] for o in summary["objectives"]]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    figures: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, metric in enumerate(metrics):
            one: dict[str, Any] = {"target": lambda t, i=i: t.values[i], "target_name": metric}
            figures[f"History: {metric}"] = plots.plot_optimization_history(study, **one)
            ranked = importances(study, i)
            if ranked:
                figures[f"What mattered: {metric}"] = importance_figure(ranked)
            if complete:
                figures[f"Each parameter: {metric}"] = plots.plot_slice(study, **one)
            top = [r["parameter"] for r in ranked[:2]]
            if len(top) == 2:
                figures[f"The two that mattered most: {metric}"] = plots.plot_contour(study, params=top, **one)
        if len(metrics) > 1:
            figures = {"Pareto front": plots.plot_pareto_front(study, target_names=metrics), **figures}
        elif complete:
            figures["Expected best after n trials"] = expected_figure(summary)
        if any(t.intermediate_values for t in study.get_trials(deepcopy=False)):
            figures["Validation accuracy while training"] = plots.plot_intermediate_values(study)
    return figures


def importance_figure(ranked: list[dict[str, Any]]) -> Any:
    from plotly import graph_objects

    bars = graph_objects.Bar(
        x=[r["importance"] for r in ranked][::-1], orientation="h",
        y=[f"{r['parameter']} ({r['n_trials']} trials)" for r in ranked][::-1],
    )  # fmt: skip
    layout = {"xaxis_title": "fANOVA importance, within the trials that had the parameter", "margin": {"l": 260}}
    return graph_objects.Figure(bars, layout)


def expected_figure(summary: dict[str, Any]) -> Any:
    from plotly import graph_objects

    curve = curve_of(summary)
    line = graph_objects.Scatter(x=list(range(1, len(curve) + 1)), y=curve, mode="lines+markers")
    return graph_objects.Figure(line, {"xaxis_title": "trials", "yaxis_title": "expected best"})


def draw_pngs(study: optuna.Study, summary: dict[str, Any], folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    ranked = importances(study)
    several = len(summary["objectives"]) > 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    complete = [t for t in summary["trials"] if t["state"] == "complete"]
    if several:
        front = [t for t in complete if t["number"] in summary["front"]]
        for of, colour, label in ((complete, "#b0b0b0", "trials"), (front, "#c1272d", "Pareto front")):
            left.plot([t["values"][1] for t in of], [t["values"][0] for t in of], "o", color=colour, label=label)
        left.set_xlabel(summary["objectives"][1]["metric"])
    else:
        maximise = summary["objectives"][0]["direction"] == "maximize"
        left.plot(
            [t["number"] for t in complete], [t["values"][0] for t in complete], "o", color="#b0b0b0", label="trials"
        )
        best, course = None, []
        for t in complete:
            value = t["values"][0]
            best = value if best is None else (max(best, value) if maximise else min(best, value))
            course.append(best)
        left.step([t["number"] for t in complete], course, where="post", color="#c1272d", label="best so far")
        left.set_xlabel("trial")
    left.set_ylabel(summary["objectives"][0]["metric"])
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    right.barh([f"{r['parameter']} ({r['n_trials']})" for r in ranked][::-1], [r["importance"] for r in ranked][::-1])
    right.set_xlabel("fANOVA importance (trials that had it)")
    figure.suptitle(summary["name"], fontsize=11)
    path = folder / "study.png"
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return [path]


def head(summary: dict[str, Any]) -> str:
    states = ", ".join(f"{n} {state}" for state, n in summary["states"].items() if n)
    rows = "".join(
        f"<tr><td>{c['number']}</td><td>{c['searched']:.4g}</td><td>{shown(c)}</td><td>{len(c['values'])}</td></tr>"
        for c in summary["confirmed"]
    )
    confirmed = (
        "<h2>The best, again with fresh seeds</h2><table><tr><th>trial</th><th>in the search</th><th>fresh seeds</th>"
        f"<th>n</th></tr>{rows}</table>"
    ) if rows else ""  # fmt: skip
    best = next((t for t in summary["trials"] if t["number"] == summary["best"]), None)
    params = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(f'{v:.4g}' if isinstance(v, float) else str(v))}</td></tr>"
        for k, v in (best or {"params": {}})["params"].items()
    )
    setting = f"<h2>Trial {best['number']}, the best</h2><table>{params}</table>" if best else ""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(summary["name"])}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:0}}main{{max-width:60rem;margin:auto;padding:1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:left}}
.figure{{overflow-x:auto}}</style></head>
<body><main><h1>{html.escape(summary["name"])}</h1><p>{html.escape(summary["description"])}</p>
<p>{summary["n_trials"]} trials ({states}), {summary["train_seconds"] / 3600:.2f} hours of training,
{summary["gpu_hours"]:.2f} GPU-hours, {summary["train_flops"]:.3g} training FLOPs. Objectives are on validation data;
the test set was not looked at.</p>{confirmed}{setting}"""


def shown(confirmed: dict[str, Any]) -> str:
    if confirmed["mean"] is None:
        return "failed"
    return f"{confirmed['mean']:.4g}" + (f" ± {confirmed['std']:.2g}" if confirmed["std"] is not None else "")
