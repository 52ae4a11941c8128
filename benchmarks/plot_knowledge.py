"""How much data until an LLM's knowledge of items pays less: draws docs/images/knowledge_curve.svg.

    python benchmarks/plot_knowledge.py

It reads results/office_knowledge_curve.json and, for all users, office_knowledge_fitted.json.
"""

from __future__ import annotations

import json

import matplotlib
from contest import RESULTS

USERS = {10: 490, 25: 1226, 50: 2452, 100: 4905}  # that training has
LINES = {
    "{base}": ("SASRec", "#888888", "-", "o"),
    "{similar}": ("with items of like titles (no LLM)", "#4477aa", "-", "s"),
    "{all}/shuffled": ("placebo: what is bought next and before, of other items", "#ccbb44", "--", "^"),
    "{all}": ("with like titles and what the LLM says is bought next and before", "#aa3377", "-", "D"),
}
PANELS = {"all": "all targets", "seen <= 5 times": "targets seen at most five times"}


def names(share: int) -> dict[str, str]:
    """How the rows of a share are called in its table."""
    if share == 100:
        return {"base": "SASRec", "similar": "similar, learned", "all": "all, learned"}
    return {"base": f"{share} %", "similar": f"{share} %+similar", "all": f"{share} %+all"}


def main() -> None:
    matplotlib.use("svg")
    from matplotlib import pyplot

    curve, whole = (
        json.loads((RESULTS / f"office_knowledge_{name}.json").read_text())["rows"] for name in ("curve", "fitted")
    )
    pyplot.rcParams["svg.hashsalt"] = "knowledge"
    pyplot.rcParams["font.size"] = 9
    figure, panels = pyplot.subplots(1, 2, figsize=(9.2, 3.9), layout="constrained")
    for panel, (part, title) in zip(panels, PANELS.items()):
        for pattern, (label, colour, style, mark) in LINES.items():
            rows = [(whole if share == 100 else curve)[pattern.format(**names(share))] for share in USERS]
            values = [row[part]["ndcg@10"]["percent"] for row in rows]
            panel.plot(list(USERS.values()), values, style, color=colour, marker=mark, markersize=4, label=label)
        panel.set_xscale("log")
        panel.set_xticks(list(USERS.values()), [f"{users:,}" for users in USERS.values()])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set(title=title, xlabel="users in training (log scale)", ylabel="test NDCG@10, %")
        panel.grid(color="#e4e7eb")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    path = RESULTS.parents[1] / "docs" / "images" / "knowledge_curve.svg"
    figure.savefig(path, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
