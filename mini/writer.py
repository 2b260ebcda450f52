"""Invented consumer complaints, written in the raw 18-column schema of the CFPB database.

Every complaint comes from the grammar in grammar.txt: no sentence is taken from a real complaint, and every company but
the study's own is fictitious. Its sentences are frames of many short parts, each with many alternatives, so that two
complaints hardly share five words in a row. The same seed gives the same bytes.
"""

import datetime
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.files import write_whole

STUDY_COMPANY = "BANK OF AMERICA, NATIONAL ASSOCIATION"
COMPANIES = {  # company: what its customers call it
    STUDY_COMPANY: "Bank of America|BOA|BOA|BofA|BofA|B of A|BOFA|XXXX|the bank|this bank|my bank",
    "QUILLFEN EXAMPLE BANK, N.A.": "Quillfen|Quillfen Bank|the bank|this bank|XXXX",
    "Oakmoss & Finch Savings (fictitious)": "Oakmoss|Oakmoss and Finch|the bank|XXXX",
    "SAMPLE CITY CREDIT UNION": "Sample City|the credit union|XXXX",
    "Thistlemere Example Financial": "Thistlemere|Thistlemere Financial|the company|XXXX",
    "PLACEHOLDER CARD SERVICES, INC.": "Placeholder|Placeholder Services|this bank|XXXX",
    "Zephyrine Imaginary Lending, LLC": "Zephyrine|Zephyrine Lending|the company|XXXX",
    "Invented Trust Holdings": "Invented Trust|the bank|XXXX XXXX",
    "Fernwick Example Servicing Corp.": "Fernwick|Fernwick Servicing|the company|XXXX",
}
OTHER_COMPANIES = [company for company in COMPANIES if company != STUDY_COMPANY]

PRODUCTS = {  # product: (its name in the grammar, sub-products, issues)
    "Credit card or prepaid card": (
        "card",
        ["General-purpose credit card or charge card", "Store credit card", "General-purpose prepaid card"],
        ["Fees or interest", "Problem with a purchase shown on your statement", "Closing your account"],
    ),
    "Mortgage": (
        "mortgage",
        ["Conventional home mortgage", "FHA mortgage", "Home equity loan or line of credit (HELOC)"],
        ["Trouble during payment process", "Struggling to pay mortgage", "Closing on a mortgage"],
    ),
    "Checking or savings account": (
        "deposit",
        ["Checking account", "Savings account"],
        ["Managing an account", "Problem caused by your funds being low"],
    ),
    "Credit reporting, credit repair services, or other personal consumer reports": (
        "report",
        ["Credit reporting"],
        ["Incorrect information on your report", "Improper use of your report"],
    ),
    "Debt collection": (
        "debt",
        ["Medical debt", "I do not know"],
        ["Attempts to collect debt not owed", "Written notification about debt"],
    ),
    "Student loan": (
        "student",
        ["Federal student loan servicing", "Private student loan"],
        ["Dealing with your lender or servicer", "Struggling to repay your loan"],
    ),
    "Vehicle loan or lease": ("vehicle", ["Loan", "Lease"], ["Managing the loan or lease"]),
    "Money transfer, virtual currency, or money service": (
        "transfer",
        ["Domestic (US) money transfer", "Mobile or digital wallet"],
        ["Fraud or scam", "Other transaction problem"],
    ),
}
CARD, MORTGAGE = "Credit card or prepaid card", "Mortgage"
OTHER_PRODUCTS = [product for product in PRODUCTS if product not in (CARD, MORTGAGE)]

STUDY_ROWS = {CARD: 1820, MORTGAGE: 1800}  # the study's company, copies and a blank text each included
COPIES = {"exact": 5, "restyled": 5, "near": 8}  # per product of the study
ELSEWHERE_ROWS = 420  # complaints about cards, and about mortgages, that other companies received
OTHER_ROWS = {"study": 40, "elsewhere": 85}  # complaints about each other product
SILENT_ROWS = 1860  # rows without a narrative

WRONG_PRODUCT = 0.015  # share of complaints filed under the other product of the study
UNDECIDABLE = 0.02  # share of complaints that name no product
SUBTLE = 0.03  # share of complaints that only hint at one
OPENS = 0.93  # share of the other complaints that open with the product
NAMES = 0.55  # share of the other complaints that name it once more
MENTIONS_OTHER = 0.12  # share of the other complaints that mention the other product
TELLS_OTHER = 0.05  # share of the other complaints that tell a story about it too
LEADS, TAILS = 0.3, 0.35  # shares of the sentences that something leads up to, and that something follows

COLUMNS = [
    "Date received",
    "Product",
    "Sub-product",
    "Issue",
    "Sub-issue",
    "Consumer complaint narrative",
    "Company public response",
    "Company",
    "State",
    "ZIP code",
    "Tags",
    "Consumer consent provided?",
    "Submitted via",
    "Date sent to company",
    "Company response to consumer",
    "Timely response?",
    "Consumer disputed?",
    "Complaint ID",
]
SCHEMA = pa.schema([(name, pa.int64() if name == "Complaint ID" else pa.string()) for name in COLUMNS])

HOLE = re.compile(r"<([\w.]+)>|\(([^()]*)\)|\[([^][]*)\]")  # <rule>, (one|of|these), or [this or nothing]
PART = re.compile(r"<(paper|sum|matter|deed|did)>")  # what a story takes from its topic
TIMED = re.compile(r"<(when|times|span|by|wish|\w+_\w+|\S+\.(deed|did))>")  # what may tell when, and how often
FILLERS = ["also", "again", "still", "really", "just", "already", "even", "only"]


def ceiling() -> float:
    """Return the best accuracy that anyone can expect: all but the wrong labels, and half of what cannot be decided."""
    return (1 - UNDECIDABLE) * (1 - WRONG_PRODUCT) + UNDECIDABLE / 2


def planted(seed: int = 0) -> dict[str, str]:
    """Return {narrative: "wrong label" or "undecidable"} of the study's complaints that have something planted.

    The file of the same seed does not tell which they are: this is for tests, and for judging what claims to find them.
    """
    found = narratives(random.Random(seed))
    return {text: truth for company, _, text, truth in found if text and truth and company == STUDY_COMPANY}


def write_complaints(path: Path, seed: int = 0) -> Path:
    """Write about 7,000 invented complaints to a Parquet file, whole or not at all, and return its path."""
    table = pa.Table.from_pylist(complaints(random.Random(seed)), schema=SCHEMA)
    write_whole(path, lambda temporary: pq.write_table(table, temporary))
    return path


def complaints(rng: random.Random) -> list[dict]:
    """Return all rows, shuffled, each with its own Complaint ID."""
    found = narratives(rng)
    rng.shuffle(found)
    numbers = rng.sample(range(3_000_000, 8_000_000), len(found))
    return [row(*each[:3], number, rng) for each, number in zip(found, numbers, strict=True)]


def narratives(rng: random.Random) -> list[tuple[str, str, str | None, str]]:
    """Return (company, product, text, what is planted) of all rows; the last is "" where nothing is."""
    seen: set[str] = set()
    found: list[tuple[str, str, str | None, str]] = []
    for product, count in STUDY_ROWS.items():
        fresh = [complaint(STUDY_COMPANY, product, seen, rng) for _ in range(count - sum(COPIES.values()) - 1)]
        found += [(STUDY_COMPANY, product, *each) for each in [*fresh, *copies(fresh, rng), ("  \n", "")]]
    orders = [("elsewhere", product, ELSEWHERE_ROWS) for product in STUDY_ROWS]
    orders += [(where, product, count) for where, count in OTHER_ROWS.items() for product in OTHER_PRODUCTS]
    for where, product, count in orders:
        for _ in range(count):
            company = STUDY_COMPANY if where == "study" else rng.choice(OTHER_COMPANIES)
            found.append((company, product, *complaint(company, product, seen, rng)))
    silent = range(SILENT_ROWS)
    return found + [(rng.choice(list(COMPANIES)), rng.choice(list(PRODUCTS)), None, "") for _ in silent]


def row(company: str, product: str, narrative: str | None, number: int, rng: random.Random) -> dict:
    """Return one complaint as a dictionary with the 18 columns of the source."""
    _, subproducts, issues = PRODUCTS[product]
    received = datetime.date(2015, 4, 1) + datetime.timedelta(days=rng.randrange(3100))
    sent = received + datetime.timedelta(days=rng.choice([0, 0, 0, 1, 2, 5]))
    refusals = ["Consent not provided", "Consent not provided", "Other", "Consent withdrawn", None]
    return {
        "Date received": received.isoformat(),
        "Product": product,
        "Sub-product": rng.choice(subproducts),
        "Issue": rng.choice(issues),
        "Sub-issue": rng.choice(["Trouble getting, activating, or using it", "Other problem", None, None]),
        "Consumer complaint narrative": narrative,
        "Company public response": rng.choice(
            ["Company has responded to the consumer and the CFPB and chooses not to provide a public response", None]
        ),
        "Company": company,
        "State": rng.choice(["CA", "FL", "TX", "NY", "GA", "WA", "OH", None]),
        "ZIP code": rng.choice(["900XX", "330XX", "770XX", "100XX", "303XX", None]),
        "Tags": rng.choice(["Older American", "Servicemember", *[None] * 10]),
        "Consumer consent provided?": rng.choice(refusals) if narrative is None else "Consent provided",
        "Submitted via": rng.choice(["Web", "Phone", "Referral", "Postal mail"]) if narrative is None else "Web",
        "Date sent to company": sent.isoformat(),
        "Company response to consumer": rng.choice(
            ["Closed with explanation", "Closed with monetary relief", "Closed with non-monetary relief"]
        ),
        "Timely response?": rng.choice(["Yes"] * 30 + ["No"]),
        "Consumer disputed?": rng.choice(["Yes", "No", *[None] * 30]),
        "Complaint ID": number,
    }


def complaint(company: str, product: str, seen: set[str], rng: random.Random) -> tuple[str, str]:
    """Return a complaint about the product, unlike all in `seen`, and what is planted in it; add its words to `seen`."""
    about = {CARD: "card", MORTGAGE: "mortgage"}.get(product)
    truth = "wrong label" if about and rng.random() < WRONG_PRODUCT else ""
    if about and truth:
        about = other(about)
    rules = GRAMMAR | {"bank": COMPANIES[company].split("|")}
    while True:
        hidden = about is not None and rng.random() < UNDECIDABLE
        if hidden:
            parts = shared_sentences(rng.randint(2, 6), rng)
        else:
            parts = plan(about, rng) if about else plain_plan(PRODUCTS[product][0], rng)
        text = styled([expand(surrounded(part, rng), rules, rng) for part in parts], rng)
        if plain_words(text) not in seen:
            seen.add(plain_words(text))
            return text, "undecidable" if hidden else truth


def other(about: str) -> str:
    """Return the other one of the study's two products."""
    return "mortgage" if about == "card" else "card"


def plan(about: str, rng: random.Random) -> list[str]:
    """Return the unexpanded sentences of a complaint about "card" or "mortgage", which may only hint at it or name both."""
    if rng.random() < SUBTLE:
        hints = rng.sample(GRAMMAR[f"{about}_hint"], rng.randint(1, 2))
        return scattered(hints, shared_sentences(rng.randint(2, 6), rng), rng)
    parts = plain_plan(about, rng)
    chance = rng.random()
    if chance < TELLS_OTHER:
        told = stories([rng.choice(TOPICS[other(about)])], max(1, len(parts) // 3), rng)
        parts = [*parts[:-1], f"<{other(about)}_aside>", *told, parts[-1]]
    elif chance < TELLS_OTHER + MENTIONS_OTHER:
        parts.insert(rng.randrange(len(parts) + 1), f"<{other(about)}_aside>")
    return parts


def plain_plan(about: str, rng: random.Random) -> list[str]:
    """Return the unexpanded sentences of a straightforward complaint: opening, topics, general grievances, a wish."""
    length = min(30, max(1, round(rng.lognormvariate(1.15, 0.6))))
    topics = rng.sample(TOPICS[about], min(len(TOPICS[about]), 1 + (length > 6)))
    story = stories(topics, max(1, round(length * rng.uniform(0.45, 0.75))), rng)
    parts = scattered(story, shared_sentences(length - len(story), rng), rng)
    if about in ("card", "mortgage") and rng.random() < NAMES:
        parts.insert(rng.randrange(len(parts) + 1), f"<{about}_named>")
    opening = [f"<{about}_open>"] * (rng.random() < OPENS)
    return opening + parts + ["<wish>"] * (rng.random() < 0.6)


def stories(topics: list[str], count: int, rng: random.Random) -> list[str]:
    """Return so many unexpanded sentences of a story, each about one of the topics."""
    return [PART.sub(rf"<{rng.choice(topics)}.\1>", frame) for frame in rng.sample(GRAMMAR["story"], count)]


def shared_sentences(count: int, rng: random.Random) -> list[str]:
    """Return so many unexpanded sentences that fit any product, at most one of each frame."""
    return rng.sample(GRAMMAR["shared"], count)


def scattered(first: list[str], second: list[str], rng: random.Random) -> list[str]:
    """Return both lists merged at random, each in its own order."""
    slots = [0] * len(first) + [1] * len(second)
    rng.shuffle(slots)
    sources = iter(first), iter(second)
    return [next(sources[slot]) for slot in slots]


def surrounded(sentence: str, rng: random.Random) -> str:
    """Return the unexpanded sentence, sometimes with words that lead up to it or follow it."""
    if sentence == "<wish>":
        return sentence
    if rng.random() < LEADS and not sentence.endswith("_open>"):
        sentence = fitting(GRAMMAR["lead"], sentence, rng) + ", " + sentence
    return sentence + fitting(GRAMMAR["tail"], sentence, rng) * (rng.random() < TAILS and not sentence.endswith("?"))


def fitting(choices: list[str], sentence: str, rng: random.Random) -> str:
    """Return one of the choices: where the sentence may tell a time, one that does not."""
    timed = TIMED.search(sentence)
    return rng.choice([choice for choice in choices if not (timed and TIMED.search(choice))])


def expand(text: str, rules: dict[str, list[str]], rng: random.Random) -> str:
    """Return the text with every <rule>, (one|of|these) and [this or nothing] replaced until none is left."""

    def pick(hole: re.Match) -> str:
        rule, choices, perhaps = hole.groups()
        if perhaps is not None:
            return perhaps * (rng.random() < 0.5)
        return rng.choice(rules[rule] if rule else choices.split("|"))

    while HOLE.search(text):
        text = HOLE.sub(pick, text)
    text = re.sub(r" +(?=[ ,?.])", "", text).strip()
    text = re.sub(r"\ba (?=(?!one|us|uni)[aeiouAEIOU])", "an ", text)
    return text if text.endswith("?") else text + "."


def styled(sentences: list[str], rng: random.Random) -> str:
    """Return the sentences as one text in its writer's hand: contractions, capitals or none, misspellings, paragraphs."""
    sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    if rng.random() < 0.5:
        sentences = [CONTRACTED.sub(lambda found: CONTRACTIONS[found[0]], sentence) for sentence in sentences]
    if rng.random() < 0.3:
        shout = rng.randrange(len(sentences))
        sentences[shout] = sentences[shout].upper() if rng.random() < 0.5 else sentences[shout][:-1] + "!!!"
    text = (" " if rng.random() < 0.8 else "\n\n").join(sentences)
    if rng.random() < 0.35:
        text = " ".join(TYPOS.get(word, word) if rng.random() < 0.5 else word for word in text.split(" "))
    chance = rng.random()
    return text.lower().replace("xx", "XX") if chance < 0.06 else text.upper() if chance < 0.08 else text


def copies(fresh: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Return exact, restyled and near-duplicates of some of the longer texts, of no text two, with what is planted there."""
    originals = rng.sample([each for each in fresh if len(each[0].split()) >= 50], sum(COPIES.values()))
    kinds = [kind for kind, count in COPIES.items() for _ in range(count)]
    change = {"exact": lambda text: text, "restyled": restyled, "near": lambda text: reworded(text, rng)}
    return [(change[kind](text), truth) for kind, (text, truth) in zip(kinds, originals, strict=True)]


def restyled(text: str) -> str:
    """Return the same words in other case, spacing and punctuation."""
    return "  " + text.swapcase().replace(". ", " !!  ") + "\n"


def reworded(text: str, rng: random.Random) -> str:
    """Return the text with three of its words replaced by fillers."""
    words = text.split(" ")
    for position in rng.sample(range(len(words)), 3):
        words[position] = rng.choice([filler for filler in FILLERS if filler != words[position].lower()])
    return " ".join(words)


def plain_words(text: str) -> str:
    """Return the text in lower case with nothing but letters and digits between single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def read_grammar(text: str) -> dict[str, list[str]]:
    """Return {rule: alternatives}: "name: one|other", an indented line going on, or "name:" and a line for each.

    Blank lines, and lines that begin with #, are left out.
    """
    lines = "\n".join(line for line in text.splitlines() if line and line[0] != "#").replace("\n  ", "")
    parts = re.split(r"(?m)^([\w.]+):", lines)[1:]
    return {
        name: rest.strip().splitlines() if rest[0] == "\n" else re.split(r"\|(?![^()]*\))", rest.strip())
        for name, rest in zip(parts[::2], parts[1::2], strict=True)
    }


GRAMMAR_FILE = Path(__file__).with_name("grammar.txt")
GRAMMAR = read_grammar(GRAMMAR_FILE.read_text(encoding="utf-8"))
CONTRACTIONS, TYPOS = (dict(pair.split("=") for pair in GRAMMAR.pop(name)) for name in ("contractions", "typos"))
CONTRACTED = re.compile("|".join(rf"\b{long}\b" for long in CONTRACTIONS))

TOPICS = {
    about: sorted({rule.split(".")[0] for rule in GRAMMAR if re.match(rf"{about}_\w+\.", rule)})
    for about, _, _ in PRODUCTS.values()
}
