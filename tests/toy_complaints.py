"""Invented complaints as files hold them, for several test files."""

from pathlib import Path

import pandas as pd

from helpers.sources import NARRATIVE, PRODUCT

COMPANY = "BANK OF AMERICA, NATIONAL ASSOCIATION"
CARDS = ["Credit card or prepaid card", "Credit card", "Prepaid card"]
CLASSES = {"Mortgage": ["Mortgage"], "Credit card or prepaid card": CARDS}


def complaints(
    company: str = COMPANY, cards: tuple[str, ...] = ("Credit card",) * 5 + ("Prepaid card",)
) -> pd.DataFrame:
    """Return 60 invented rows, half of them about mortgages, with what makes files hard: quotes, line breaks, all dividers."""
    products = [("Mortgage", cards[i // 2 % len(cards)])[i % 2] for i in range(60)]
    texts = [f'Letter {i}: "they" said;\nno, and\tthe fee of {i} euros (café) stayed' for i in range(60)]
    columns = {"Date received": "2024-03-14", PRODUCT: products, NARRATIVE: texts, "Company": company}
    return pd.DataFrame(columns).assign(**{"Complaint ID": range(9_000, 9_060)})


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows, mark=",", encoding="utf-8", **options) -> bytes:
    return rows.to_csv(index=False, sep=mark, **options).encode(encoding)
