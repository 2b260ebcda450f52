"""Invented consumer complaints, written in the raw 18-column schema of the CFPB database.

Every complaint comes from the grammar in grammar.txt: no sentence is taken from a real complaint, and every
company but the study's own is fictitious. The same seed gives the same bytes.
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
    STUDY_COMPANY: "Bank of America|Bank of America|BOA|BofA|B of A|BOFA|XXXX|the bank",
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

STUDY_ROWS = {CARD: 1300, MORTGAGE: 1250}  # the study's company, copies and a blank text each included
COPIES = {"exact": 5, "restyled": 5, "near": 8}  # per product of the study
ELSEWHERE_ROWS = 420  # complaints about cards, and about mortgages, that other companies received
OTHER_ROWS = {"study": 40, "elsewhere": 85}  # complaints about each other product
SILENT_ROWS = 1860  # rows without a narrative

WRONG_PRODUCT = 0.015  # share of complaints filed under the other product of the study
UNDECIDABLE = 0.02  # share of complaints that name no product
SUBTLE = 0.06  # share of complaints that only hint at one
OPENS = 0.9  # share of the other complaints that open with the product
NAMES = 0.45  # share of the other complaints that name it once more
MENTIONS_OTHER = 0.25  # share of the other complaints that mention the other product
TELLS_OTHER = 0.16  # share of the other complaints that tell a story about it too

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

HOLE = re.compile(r"<(\w+)>|\(([^()]*)\)")  # <rule> or (one|of|these)
TYPOS = {
    "received": "recieved",
    "receive": "recieve",
    "address": "adress",
    "definitely": "definately",
    "their": "there",
    "separate": "seperate",
    "until": "untill",
    "because": "becuase",
    "interest": "intrest",
    "paid": "payed",
    "would": "woud",
    "never": "nevr",
    "account": "acount",
    "customer": "costumer",
    "payment": "paymet",
    "mortgage": "morgage",
    "credit": "creidt",
    "statement": "statment",
    "which": "wich",
    "don't": "dont",
    "can't": "cant",
    "didn't": "didnt",
}
FILLERS = ["also", "again", "still", "really", "just", "already", "even", "only"]


def write_complaints(path: Path, seed: int = 0) -> Path:
    """Write about 6,000 invented complaints to a Parquet file, whole or not at all, and return its path."""
    table = pa.Table.from_pylist(complaints(random.Random(seed)), schema=SCHEMA)
    write_whole(path, lambda temporary: pq.write_table(table, temporary))
    return path


def complaints(rng: random.Random) -> list[dict]:
    """Return all rows, shuffled, each with its own Complaint ID."""
    seen = set()
    pairs = []  # (company, product, narrative)
    for product, count in STUDY_ROWS.items():
        fresh = [complaint(STUDY_COMPANY, product, seen, rng) for _ in range(count - sum(COPIES.values()) - 1)]
        pairs += [(STUDY_COMPANY, product, text) for text in [*fresh, *copies(fresh, rng), "  \n"]]
    orders = [("elsewhere", product, ELSEWHERE_ROWS) for product in STUDY_ROWS]
    orders += [(where, product, count) for where, count in OTHER_ROWS.items() for product in OTHER_PRODUCTS]
    for where, product, count in orders:
        for _ in range(count):
            company = STUDY_COMPANY if where == "study" else rng.choice(OTHER_COMPANIES)
            pairs.append((company, product, complaint(company, product, seen, rng)))
    pairs += [(rng.choice(list(COMPANIES)), rng.choice(list(PRODUCTS)), None) for _ in range(SILENT_ROWS)]
    rng.shuffle(pairs)
    numbers = rng.sample(range(3_000_000, 8_000_000), len(pairs))
    return [row(*pair, number, rng) for pair, number in zip(pairs, numbers, strict=True)]


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


def complaint(company: str, product: str, seen: set[str], rng: random.Random) -> str:
    """Return a complaint about the product (rarely the wrong one), unlike all in `seen`, and add its words to `seen`."""
    about = {CARD: "card", MORTGAGE: "mortgage"}.get(product)
    if about and rng.random() < WRONG_PRODUCT:
        about = other(about)
    rules = GRAMMAR | {"bank": COMPANIES[company].split("|")}
    while True:
        parts = plan(about, rng) if about else plain_plan(PRODUCTS[product][0], rng)
        text = styled([expand(part, rules, rng) for part in parts], rng)
        if plain_words(text) not in seen:
            seen.add(plain_words(text))
            return text


def other(about: str) -> str:
    """Return the other one of the study's two products."""
    return "mortgage" if about == "card" else "card"


def plan(about: str, rng: random.Random) -> list[str]:
    """Return the unexpanded sentences of a complaint about "card" or "mortgage", which may hide it or name both."""
    chance = rng.random()
    if chance < UNDECIDABLE:
        return shared_sentences(rng.randint(2, 6), rng)
    if chance < UNDECIDABLE + SUBTLE:
        hints = rng.sample(GRAMMAR[f"{about}_hint"], rng.randint(1, 2))
        return scattered(hints, shared_sentences(rng.randint(2, 6), rng), rng)
    parts = plain_plan(about, rng)
    chance = rng.random()
    if chance < TELLS_OTHER:
        topic = rng.choice(TOPICS[other(about)])
        told = rng.sample(GRAMMAR[topic], min(len(GRAMMAR[topic]), max(1, len(parts) // 3)))
        parts = [*parts[:-1], f"<{other(about)}_aside>", *told, parts[-1]]
    elif chance < TELLS_OTHER + MENTIONS_OTHER:
        parts.insert(rng.randrange(len(parts) + 1), f"<{other(about)}_aside>")
    return parts


def plain_plan(about: str, rng: random.Random) -> list[str]:
    """Return the unexpanded sentences of a straightforward complaint: opening, topics, general grievances, a wish."""
    length = min(40, max(1, round(rng.lognormvariate(1.5, 0.62))))
    topics = rng.sample(TOPICS[about], min(len(TOPICS[about]), 1 + (length > 7)))
    stories = [sentence for topic in topics for sentence in GRAMMAR[topic]]
    story = rng.sample(stories, min(len(stories), max(1, round(length * rng.uniform(0.35, 0.65)))))
    parts = scattered(story, shared_sentences(length - len(story), rng), rng)
    if about in ("card", "mortgage") and rng.random() < NAMES:
        parts.insert(rng.randrange(len(parts) + 1), f"<{about}_named>")
    opening = [f"<{about}_open>"] * (rng.random() < OPENS)
    return opening + parts + ["<wish>"] * (rng.random() < 0.6)


def shared_sentences(count: int, rng: random.Random) -> list[str]:
    """Return so many unexpanded sentences that fit any product, at most one of each template."""
    return rng.sample(GRAMMAR["shared"], min(count, len(GRAMMAR["shared"])))


def scattered(first: list[str], second: list[str], rng: random.Random) -> list[str]:
    """Return both lists merged at random, each in its own order."""
    slots = [0] * len(first) + [1] * len(second)
    rng.shuffle(slots)
    sources = iter(first), iter(second)
    return [next(sources[slot]) for slot in slots]


def expand(text: str, rules: dict[str, list[str]], rng: random.Random) -> str:
    """Return the text with every <rule> and every (one|of|these) replaced until none is left."""

    def pick(hole: re.Match) -> str:
        return rng.choice(rules[hole[1]] if hole[1] else hole[2].split("|"))

    while HOLE.search(text):
        text = HOLE.sub(pick, text)
    return text


def styled(sentences: list[str], rng: random.Random) -> str:
    """Return the sentences as one text in its writer's hand: capitals or none, misspellings, paragraphs."""
    sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    if rng.random() < 0.3:
        shout = rng.randrange(len(sentences))
        sentences[shout] = sentences[shout].upper() if rng.random() < 0.5 else sentences[shout][:-1] + "!!!"
    text = (" " if rng.random() < 0.8 else "\n\n").join(sentences)
    if rng.random() < 0.35:
        text = " ".join(TYPOS.get(word, word) if rng.random() < 0.5 else word for word in text.split(" "))
    chance = rng.random()
    return text.lower().replace("xx", "XX") if chance < 0.06 else text.upper() if chance < 0.08 else text


def copies(texts: list[str], rng: random.Random) -> list[str]:
    """Return exact, restyled and near-duplicates of some of the longer texts, of no text two."""
    originals = rng.sample([text for text in texts if len(text.split()) >= 50], sum(COPIES.values()))
    kinds = [kind for kind, count in COPIES.items() for _ in range(count)]
    change = {"exact": lambda text: text, "restyled": restyled, "near": lambda text: reworded(text, rng)}
    return [change[kind](text) for kind, text in zip(kinds, originals, strict=True)]


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
    """Return {rule: alternatives}: blank lines divide rules, a name heads each, an indented line goes on."""
    blocks = (block.splitlines() for block in text.strip().replace("\n  ", " ").split("\n\n"))
    return {name.removesuffix(":"): alternatives for name, *alternatives in blocks}


GRAMMAR_FILE = Path(__file__).with_name("grammar.txt")
GRAMMAR = read_grammar(GRAMMAR_FILE.read_text(encoding="utf-8"))

TOPICS = {
    about: [rule for rule in GRAMMAR if re.fullmatch(rf"{about}_(?!open|named|aside|hint).+", rule)]
    for about, _, _ in PRODUCTS.values()
}
