"""What a comparison's interval says, as one of six verdicts (taught in 06) and as a sentence; nothing heavy is imported here."""

from typing import Any

VERDICTS = {  # by what is true of the interval (low, high) and the margin, the first that holds
    "worse by more than the margin": lambda low, high, margin: high < -margin,
    "worse within the margin": lambda low, high, margin: high < 0,
    "better": lambda low, high, margin: low > 0,
    "equivalent within the margin": lambda low, high, margin: -margin < low and high < margin,
    "not worse by more than the margin": lambda low, high, margin: low > -margin,
    "undecided": lambda low, high, margin: True,
}


def verdict(low: float, high: float, margin: float) -> str:
    """Return what an interval of a difference says, as the first verdict that holds."""
    return next(name for name, holds in VERDICTS.items() if holds(low, high, margin))


SAID = {  # of the first model of a pair, by the verdict
    "worse by more than the margin": "is worse than {other} by more than {margin} points",
    "worse within the margin": "is worse than {other}, but not shown to be so by more than {margin} points",
    "better": "is better than {other}",
    "equivalent within the margin": "is equivalent to {other} within {margin} points",
    "not worse by more than the margin": "is not worse than {other} by more than {margin} points",
    "undecided": "may be worse than {other} by more than {margin} points, or better: this is undecided",
    "not run": "is not compared with {other}, which needs --controls",
}


def sentence(row: dict[str, Any], one: str, other: str) -> str:
    """Return what a comparison says of its two models, which are to be called so, without a full stop."""
    said = SAID[row["verdict"]].format(other=other, margin=f"{100 * row['margin']:g}")
    if row["verdict"] == "not run":
        return f"{one} {said}"
    low, high = (f"{100 * row[end]:+.1f}" for end in ("low", "high"))
    alone = "; one seed, so this is about these two trained models" if row["seeds"] == 1 else ""
    return f"{one} {said} ({100 * row['difference']:+.1f} points, 90 % interval {low} to {high}{alone})"
