"""What the measurements say about the textbook statement.

"The weak form has much lower gradient variance, so SGD takes larger, steadier steps." Nothing here is written in
advance: every sentence is put together from the rows, and says where the statement holds, by how much, and where it is
reversed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sciml_rod.noise_study.descent import EXACT

STATEMENT = "The weak form has much lower gradient variance than the strong form, so SGD takes larger, steadier steps."

Row = Mapping[str, Any]


def on_variance(summary: Sequence[Row]) -> list[dict[str, Any]]:
    """Where each weak or energy estimator is less noisy than the strong form.

    Args:
        summary: from `variance.summarize`.

    Returns:
        One entry per (form, sampling): `lower`, `higher`, `undecided`, `unreliable`, lists of places (`case`, `state`,
        `ratio`: median of the relative variance over that of the strong form), and the `sentence` that says it.
    """
    found = []
    for form, sampling in dict.fromkeys((row["form"], row["sampling"]) for row in summary if row["form"] != "strong"):
        own = [row for row in summary if (row["form"], row["sampling"]) == (form, sampling)]
        places = {name: _places(own, name) for name in ("lower", "higher", "undecided", "unreliable")}
        found.append({"form": form, "sampling": sampling, **places, "sentence": _variance_sentence(own, places)})
    return found


def _places(rows: Sequence[Row], compared: str) -> list[dict[str, Any]]:
    return [
        {"case": row["case"], "state": row["state"], "ratio": row["ratio_to_strong"]}
        for row in rows
        if row["compared"] == compared
    ]


def _variance_sentence(rows: Sequence[Row], places: Mapping[str, Sequence[Row]]) -> str:
    name = f"{rows[0]['form']}, {rows[0]['sampling']}"
    lower, higher = places["lower"], places["higher"]
    words = []
    if lower:
        words.append(f"less noisy than the strong form in {_listed(lower, reverse=True)}")
    if higher:
        words.append(f"noisier in {_listed(higher, reverse=False)}")
    if places["undecided"]:
        words.append(f"undecided in {len(places['undecided'])}")
    if places["unreliable"]:
        words.append(f"not measurable in {len(places['unreliable'])}")
    return f"{name}: {'; '.join(words)} (of {len(rows)} states)."


def _listed(places: Sequence[Row], *, reverse: bool) -> str:
    """How many, by which factors, and which if they are few."""
    factors = sorted(1 / place["ratio"] if reverse else place["ratio"] for place in places)
    span = f"{factors[0]:.2g}" if len(factors) == 1 else f"{factors[0]:.2g} to {factors[-1]:.2g}"
    which = ", ".join(f"{place['case']} {place['state']}" for place in places) if len(places) <= 4 else ""
    return f"{len(places)} by a factor of {span}" + (f" ({which})" if which else "")


def on_steps(summary: Sequence[Row], targets: Sequence[float]) -> list[str]:
    """What plain SGD made of it, a sentence or two per case and claim.

    Args:
        summary: from `descent.summarize`.
        targets: the errors that were aimed at.
    """
    sentences = []
    for case in dict.fromkeys(row["case"] for row in summary):
        own = [row for row in summary if row["case"] == case]
        sentences += [_larger(case, own), _steadier(case, own), _cheaper(case, own, targets)]
    return [sentence for sentence in sentences if sentence]


def _larger(case: str, rows: Sequence[Row]) -> str:
    """How much of the step that the curvature allows does the noise leave?"""
    full = [row for row in rows if row["fraction"] == 1.0 and row["sampling"] != EXACT]
    strong = [row["step_kept"] for row in full if row["form"] == "strong"]
    others = sorted((row for row in full if row["form"] != "strong"), key=lambda row: row["step_kept"])
    if not strong or not others:
        return ""
    above = [row for row in others if row["step_kept"] > max(strong)]
    own = " to ".join(dict.fromkeys(f"{kept:.2g}" for kept in sorted(strong)))
    span = ", ".join(f"{name(row)} {row['step_kept']:.2g}" for row in (others[0], others[-1]))
    verdict = f"{len(above)} of {len(others)} weak and energy estimators keep more" if above else "none keeps more"
    return (
        f"{case}, larger steps: of the step that is stable with its own exact gradient the strong form keeps "
        f"{own} under its noise; {verdict} (least and most: {span})."
    )


def _steadier(case: str, rows: Sequence[Row]) -> str:
    """How much does the error move up and down at the end?"""
    full = [row for row in rows if row["fraction"] == 1.0 and row["sampling"] != EXACT]
    broken = [name(row) for row in full if row["diverged"]]
    settled = sorted((row for row in full if row["floor"] is not None), key=lambda row: row["floor"])
    if not settled:
        return f"{case}: no run stayed finite."
    floors = "; ".join(f"{name(row)} {row['floor']:.1e} (x{row['scatter']:.2g})" for row in settled[:3])
    text = f"{case}, steadier steps: lowest error at the end, and how far it moves: {floors}."
    return text + (f" Diverged with some seed in the long run: {', '.join(broken)}." if broken else "")


def _cheaper(case: str, rows: Sequence[Row], targets: Sequence[float]) -> str:
    """Who reaches the smallest target that anyone reaches, at what cost, and what the exact gradient says of it."""
    drawn = [row for row in rows if row["sampling"] != EXACT]
    for target in sorted(targets):
        key = f"evaluations_to_{target:g}"
        best = {form: _cheapest([row for row in drawn if row["form"] == form], key) for form in _forms(rows)}
        if not any(best.values()):
            continue
        words = [f"{name(row)} {row[key]:.2g}" if row else f"{form} never" for form, row in best.items()]
        control = {form: _cheapest([r for r in rows if (r["form"], r["sampling"]) == (form, EXACT)], key)
                   for form in _forms(rows)}  # fmt: skip
        exact = [f"{form} {row[key] / 64:.2g}" if row else f"{form} never" for form, row in control.items()]
        return (
            f"{case}, cost of an error of {target:g} (network evaluations, best sampling and step of each form): "
            f"{', '.join(words)}. Steps with the exact gradient, where only the curvature counts: {', '.join(exact)}."
        )
    return f"{case}: no form reached an error of {max(targets):g}."


def _cheapest(rows: Sequence[Row], key: str) -> Row | None:
    reached = [row for row in rows if row[key] is not None]
    return min(reached, key=lambda row: row[key]) if reached else None


def _forms(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["form"] for row in rows))


def name(row: Row) -> str:
    """What an estimator is called in sentences and figures; half steps are marked."""
    half = "" if row.get("fraction", 1.0) == 1.0 else f" (step x {row['fraction']:g})"
    return f"{row['form']}, {row['sampling']}{half}"
