"""What the pages of the series decide, read from the pages themselves."""

from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split

from driver.parameters import code_cells, defaults
from helpers.files import complaints

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CLASSES = defaults(NOTEBOOKS / "01_data.ipynb")["CLASSES"]
PAGES = {"distilbert_lora": "03_distilbert_lora", "gpt2_lora": "04_gpt2_lora", "gpt2_qlora": "05_gpt2_qlora"}


def cells(page: str) -> list[str]:
    """Return the sources of a notebook's code cells."""
    return code_cells(NOTEBOOKS / f"{page}.ipynb")


def values(kind: str) -> dict:
    """Return the values in the parameters cell of the page that trains this kind."""
    return defaults(NOTEBOOKS / f"{PAGES[kind]}.ipynb")


def select(path: str, company: str) -> tuple[dict[str, int], pd.DataFrame]:
    """Return what notebook 01 finds in the file: the rows left by each condition, and the letters."""
    found, left = complaints.select(complaints.load_complaints(path, "", "", company=company), company, CLASSES)
    return left, found


def letters(path: str, company: str, seed: int = 42) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and validation letters, up to 1,000 of each class together, divided as notebook 01 divides them."""
    _, found = select(path, company)
    shuffled = found.drop_duplicates("text").sample(frac=1, random_state=seed)
    rows = shuffled.groupby("label").head(min(1000, shuffled["label"].value_counts().min())).reset_index(drop=True)
    train, validation = train_test_split(rows, test_size=0.2, stratify=rows["label"], random_state=seed)
    return train.reset_index(drop=True), validation.reset_index(drop=True)
