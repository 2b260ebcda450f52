"""Writes invented consumer complaints in the raw 18-column schema of the CFPB database.

Every letter comes from the grammar at the end of this file: no sentence is taken from a real complaint, and every
company but the study's own is fictitious. The same seed gives the same bytes.

    python -m mini.writer PATH
"""

import datetime
import os
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
ELSEWHERE_ROWS = 420  # letters about cards, and about mortgages, that other companies received
OTHER_ROWS = {"study": 40, "elsewhere": 85}  # letters about each other product
SILENT_ROWS = 1860  # rows without a narrative

WRONG_PRODUCT = 0.015  # share of letters filed under the other product of the study
UNDECIDABLE, SUBTLE = 0.02, 0.06  # shares of letters that name no product, and that only hint at it
OPENS, NAMES = 0.9, 0.45  # shares of the other letters that open with the product, and that name it once more
MENTIONS_OTHER, TELLS_OTHER = 0.25, 0.16  # shares that mention the other product, and that tell a story about it too

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
    """The path of a parquet file of about 6,000 invented complaints, written whole or not at all."""
    path = Path(path)
    table = pa.Table.from_pylist(complaints(random.Random(seed)), schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def complaints(rng: random.Random) -> list[dict]:
    """All rows, shuffled, each with its own Complaint ID."""
    seen = set()
    pairs = []  # (company, product, narrative)
    for product, count in STUDY_ROWS.items():
        fresh = [letter(STUDY_COMPANY, product, seen, rng) for _ in range(count - sum(COPIES.values()) - 1)]
        pairs += [(STUDY_COMPANY, product, text) for text in [*fresh, *copies(fresh, rng), "  \n"]]
    orders = [("elsewhere", product, ELSEWHERE_ROWS) for product in STUDY_ROWS]
    orders += [(where, product, count) for where, count in OTHER_ROWS.items() for product in OTHER_PRODUCTS]
    for where, product, count in orders:
        for _ in range(count):
            company = STUDY_COMPANY if where == "study" else rng.choice(OTHER_COMPANIES)
            pairs.append((company, product, letter(company, product, seen, rng)))
    pairs += [(rng.choice(list(COMPANIES)), rng.choice(list(PRODUCTS)), None) for _ in range(SILENT_ROWS)]
    rng.shuffle(pairs)
    numbers = rng.sample(range(3_000_000, 8_000_000), len(pairs))
    return [row(*pair, number, rng) for pair, number in zip(pairs, numbers, strict=True)]


def row(company: str, product: str, narrative: str | None, number: int, rng: random.Random) -> dict:
    """One complaint as a dictionary with the 18 columns of the source."""
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


def letter(company: str, product: str, seen: set[str], rng: random.Random) -> str:
    """A new letter to the company about the product (rarely the wrong one), unlike all seen so far; adds it to them."""
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
    """The other one of the study's two products."""
    return "mortgage" if about == "card" else "card"


def plan(about: str, rng: random.Random) -> list[str]:
    """The unexpanded sentences of a letter about "card" or "mortgage", some of which hide it or name both."""
    dice = rng.random()
    if dice < UNDECIDABLE:
        return shared_sentences(rng.randint(2, 6), rng)
    if dice < UNDECIDABLE + SUBTLE:
        hints = rng.sample(GRAMMAR[f"{about}_hint"], rng.randint(1, 2))
        return scattered(hints, shared_sentences(rng.randint(2, 6), rng), rng)
    parts = plain_plan(about, rng)
    dice = rng.random()
    if dice < TELLS_OTHER:
        topic = rng.choice(TOPICS[other(about)])
        told = rng.sample(GRAMMAR[topic], min(len(GRAMMAR[topic]), max(1, len(parts) // 3)))
        parts = [*parts[:-1], f"<{other(about)}_aside>", *told, parts[-1]]
    elif dice < TELLS_OTHER + MENTIONS_OTHER:
        parts.insert(rng.randrange(len(parts) + 1), f"<{other(about)}_aside>")
    return parts


def plain_plan(about: str, rng: random.Random) -> list[str]:
    """The unexpanded sentences of a straightforward letter: opening, one or two topics, general grievances, a wish."""
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
    """So many unexpanded sentences that fit any product, at most one of each template."""
    return rng.sample(GRAMMAR["shared"], min(count, len(GRAMMAR["shared"])))


def scattered(first: list[str], second: list[str], rng: random.Random) -> list[str]:
    """Both lists merged at random, each in its own order."""
    slots = [0] * len(first) + [1] * len(second)
    rng.shuffle(slots)
    sources = iter(first), iter(second)
    return [next(sources[slot]) for slot in slots]


def expand(text: str, rules: dict[str, list[str]], rng: random.Random) -> str:
    """The text with every <rule> and every (one|of|these) replaced until none is left."""

    def pick(hole: re.Match) -> str:
        return rng.choice(rules[hole[1]] if hole[1] else hole[2].split("|"))

    while HOLE.search(text):
        text = HOLE.sub(pick, text)
    return text


def styled(sentences: list[str], rng: random.Random) -> str:
    """One text in its writer's hand: capitals or none, misspellings, paragraphs."""
    sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    if rng.random() < 0.3:
        shout = rng.randrange(len(sentences))
        sentences[shout] = sentences[shout].upper() if rng.random() < 0.5 else sentences[shout][:-1] + "!!!"
    text = (" " if rng.random() < 0.8 else "\n\n").join(sentences)
    if rng.random() < 0.35:
        text = " ".join(TYPOS.get(word, word) if rng.random() < 0.5 else word for word in text.split(" "))
    dice = rng.random()
    return text.lower().replace("xx", "XX") if dice < 0.06 else text.upper() if dice < 0.08 else text


def copies(texts: list[str], rng: random.Random) -> list[str]:
    """Exact, restyled and near copies of some of the longer texts, no text copied twice."""
    originals = rng.sample([text for text in texts if len(text.split()) >= 50], sum(COPIES.values()))
    kinds = [kind for kind, count in COPIES.items() for _ in range(count)]
    change = {"exact": lambda text: text, "restyled": restyled, "near": lambda text: reworded(text, rng)}
    return [change[kind](text) for kind, text in zip(kinds, originals, strict=True)]


def restyled(text: str) -> str:
    """The same words in other case, spacing and punctuation."""
    return "  " + text.swapcase().replace(". ", " !!  ") + "\n"


def reworded(text: str, rng: random.Random) -> str:
    """The text with three of its words replaced by fillers."""
    words = text.split(" ")
    for position in rng.sample(range(len(words)), 3):
        words[position] = rng.choice([filler for filler in FILLERS if filler != words[position].lower()])
    return " ".join(words)


def plain_words(text: str) -> str:
    """The text in lower case with nothing but letters and digits between single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def read_grammar(text: str) -> dict[str, list[str]]:
    """The alternatives of every rule. Blank lines divide rules, a name heads each, an indented line goes on."""
    blocks = (block.splitlines() for block in text.strip().replace("\n  ", " ").split("\n\n"))
    return {name.removesuffix(":"): alternatives for name, *alternatives in blocks}


GRAMMAR = read_grammar("""
digit:
0
1
2
3
4
5
6
7
8
9

nonzero:
1
2
3
4
5
6
7
8
9

money:
{$<nonzero><digit>.00}
{$<nonzero><digit>.<digit><digit>}
{$<nonzero><digit><digit>.00}
{$<nonzero><digit>0.00}
{$<nonzero><digit><digit>.<digit><digit>}
{$<nonzero><digit>00.00}

sum:
{$<nonzero>000.00}
{$<nonzero><digit>00.00}
{$<nonzero><digit>0000.00}
{$<nonzero><digit><digit>000.00}

date:
XX/XX/XXXX
XX/XX/XXXX
XX/XX/2017
XX/XX/2018
XX/XX/2019
XX/XX/2020
XX/XX/2021
XX/XX/2022
XXXX 2019
XXXX 2021

month:
(January|March|April|May|June|August|October|December|XXXX)

count:
(two|three|four|five|six|several|seven|ten|a dozen|at least three)

span:
(two|three|four|six|eight) (days|weeks|months)
(a week|a month|over a month|almost a year|half a year|ninety days|thirty days|ten business days)

rep:
(a representative|an agent|a supervisor|a manager|someone|a specialist|a very rude man|a polite woman|the person on
  the phone|XXXX)

said:
(told me|said|explained|insisted|claimed|assured me|promised|informed me|admitted|kept saying)

mood:
(frustrated|angry|exhausted|shocked|upset|worried|confused|disappointed|furious|sick of this)

unfair:
(unfair|wrong|illegal|deceptive|predatory|dishonest|unacceptable|ridiculous|outrageous|careless|not right|bad business)

often:
(again and again|every single time|more than once|month after month|on and off|many times|almost daily)

family:
(my wife|my husband|my mother|my father|my son|my daughter|my spouse|my brother|my elderly parents|my late husband)

trouble:
(lost my job|was in the hospital|had surgery|was laid off|got divorced|was deployed overseas|lost hours at work|had a
  death in the family|was hurt in an accident|went through a flood|retired early)

shop:
(airline|hotel|furniture store|online store|gym|restaurant|gas station|travel agency|moving company|streaming
  service|jewelry store|ticket seller|electronics store|pet shop|grocery store|shoe store|dentist|repair shop|XXXX
  store)

item:
(laptop|sofa|flight|cruise|mattress|phone|camera|ring|bicycle|concert ticket|jacket|washing machine|rental
  car|subscription|pair of boots|tablet|vacation package)

card:
(credit card|credit card|card|card|cash rewards card|visa card|travel card|platinum card|business card|prepaid
  card|secured card|cash back card)

loan:
(mortgage|mortgage|mortgage|home loan|mortgage loan|loan|first mortgage|FHA loan|VA loan|home equity loan|home equity
  line)

house:
(house|home|property|condo|townhouse|family home|duplex|residence|primary residence|rental property)

shared:
I (called|phoned|contacted) customer service <count> times and (got|was given) a different answer (each time|every
  time|from every person).
I was (on hold|kept waiting|left on hold) for (over an hour|ninety minutes|forty minutes|so long that I gave up) (and
  then the line went dead|before anyone answered|only to be transferred again).
<rep> <said> that (it would be fixed|the matter was closed|nothing could be done|it was my own fault|I had to wait)
  (within <span>|by the end of the month|and hung up|in so many words).
I (spoke|talked) (with|to) <rep> on <date> who <said> (everything was fine|the system showed an error|there was no
  record of my call|a letter was in the mail).
they transferred me from one department to (another|the next) and (nobody|no one) (could|wanted to|would) help.
I went (in person|back) to the (local branch|branch|branch office) and the (teller|manager|banker|clerk)
  (shrugged|told me to call the number|could not open the file|printed a page and sent me home).
I (mailed|sent|faxed|emailed|uploaded) (a letter|all documents|the papers|copies|proof|the forms) on <date> and (never
  heard back|they say nothing arrived|they lost it twice|got a form letter).
I have (records|notes|screenshots|recordings|copies) of (every call|all of this|each letter|the whole conversation).
this has (hurt|damaged|ruined|dropped) my credit score by (<nonzero><digit>|over 100|almost 80) points.
<bank> reported me (late|as thirty days late|as delinquent) to the (credit bureaus|three bureaus|bureaus) (even
  though|although) I (was never late|had paid|have proof).
the autopay (failed|stopped|was cancelled|was turned off) without (any notice|warning|a word|telling me).
my online (account|access|profile) was (locked|blocked|disabled) and (I could not see anything|I can not log in|the
  password reset does not work).
the (website|app|mobile app) (shows an error|is down|crashed|gave me a blank page) whenever I (try|log in|click on it).
they asked me to verify my identity with (a code|my social security number|a driver license|a utility bill|my
  passport) (and then rejected it|three times over|yet it was sent to an old number).
<family> and I are (very|so|extremely|really) <mood>.
I have been a (loyal|good|faithful) customer (for (ten|twelve|fifteen|twenty|thirty) years|since 2003|since
  college|all my life) and (never missed a payment|this is how I am treated|expected better).
I <trouble> in <month> and (asked for|needed|begged for) (help|some time|understanding|a little patience).
I (lost sleep|missed work|spent hours|cried|wasted my vacation) over this.
the (letter|answer|response|notice) I (got|received) was (vague|useless|unsigned|two lines long|full of errors|dated
  weeks earlier).
(every|each) time I (ask|call|write) they (open a new case|start over|give me another number|blame another
  department|read from a script).
they (refuse|refused|decline|declined) to (put it in writing|give me a name|let me talk to a supervisor|explain the
  reason|listen).
<rep> (was rude|laughed|raised his voice|talked over me|was kind but had no power|had a thick accent and bad
  connection).
I paid <money> on <date> (and have the receipt|and it cleared|by check|from my checking account|over the phone|through
  bill pay).
my payment of <money> (was returned|was posted late|vanished|was applied to the wrong place|was never credited|was
  taken twice).
this is (plainly|clearly|simply|just|completely) <unfair>.
they keep (sending|mailing) (statements|letters|notices) to (my old address|the wrong address|a place I left years
  ago|my ex).
I (changed|updated) my (address|phone number|email) on <date> but (the system never took it|they kept the old one).
a (refund|check|credit) of <money> was promised (by <month>|on <date>|within <span>) and (never came|is still
  missing|turned out to be less).
I (filed|opened) a (complaint|case|claim|ticket) with (the office of the president|their corporate office|the
  executive office|headquarters) and (waited|am waiting) <span>.
I am a (veteran|senior|single mother|disabled person|teacher|nurse|student|retired police officer) on a
  (fixed|small|limited) income and (every dollar counts|this hurts|can not absorb it).
the case number is XXXX (and|but) no one can (find|open|read) it.
they (called|rang) me at (work|night|dinner|seven in the morning) <often>.
it has been <span> and (still nothing|there is no answer|I am still waiting|the problem remains|it only got worse).
I would like (to know|someone to explain) (why|how) this (happened|was allowed|took so long).
because of the (pandemic|virus|shutdown|storm|hurricane) the (branch was closed|lines were full|mail was slow|offices
  were empty).
I (asked|begged|pleaded) them <often> to (stop|correct it|look again|check their records|call me back).
<bank> (makes|made) it (impossible|very hard|a nightmare) to (reach a human|get a straight answer|close the
  matter|talk to anyone).
I do not (owe|understand|accept|agree with) (this|that amount|their decision|the explanation).
(nobody|no one) (called back|returned my calls|followed up|apologized|took notes).
they (charged|billed|took) <money> (without permission|without asking|by mistake|that I never agreed to|for no reason).
the interest (rate|amount) (went up|changed|is wrong|was not what I was told) (in <month>|on <date>|with no notice).
my balance (shows|showed|jumped to) <sum> (which is wrong|and I can not explain it|although I paid).
a fee of <money> (was added|appeared|showed up) on <date> (and|but) they (will not remove it|removed it once|said it
  was valid).
they sold me (insurance|protection|a plan|a service) I (did not want|never signed for|could not use).
I (hired|spoke with|asked) (a lawyer|an attorney|a legal aid clinic|an accountant) (who agrees with me|about my
  rights|because I had no choice).
in my (opinion|view|case) (the law|the contract|common sense|the agreement) is (on my side|clear|being ignored).
I was (lied to|misled|ignored|insulted|treated like a criminal|passed around) (by <bank>|the whole time|<often>).
the (terms|rules|conditions|documents) (I signed|in the agreement|they quoted) say (nothing about this|otherwise|the
  opposite).
I am (attaching|enclosing|including) (the letters|my statements|the emails|a summary|everything I have).
their (records|notes|computers|systems) (are wrong|do not match|show another name|were down that day).
the chat (window|assistant|robot) (looped|froze|disconnected) before a live person (joined|typed anything).
the voice menu (hung up on me|did not understand me|sent me in circles|has no option for this).
I (printed|saved|highlighted) the (brochure|flyer|advertisement|disclosure) that (says|shows|proves) this.
(a|one) banker named XXXX (apologized|shook his head|made three copies|typed for an hour) and (nothing came of
  it|forgot about me|was moved to another branch).
my (lawyer|accountant|neighbor|pastor|daughter in law) (thinks|says) this is (fraud|negligence|a breach of
  contract|elder abuse|discrimination).
I (speak|read) (little english|Spanish|mostly Vietnamese) and they had no (interpreter|translator).
the overnight envelope was (signed for|delivered|scanned) on <date> by (the mailroom|the front desk|a guard).
the (tone|attitude|conduct|behavior) of (the staff|their employees|that supervisor) was
  (hostile|cold|arrogant|unprofessional|shameful).
they (merged|mixed up|confused) my file with (a stranger's|my father's|another customer's) (file|records).
I (drove|walked|took a bus) (forty miles|two hours|across town) to (sign|show|deliver) (one page|my identification|an
  original).
the power of attorney for my (aunt|uncle|grandfather|grandmother) was (rejected|questioned|misplaced) <often>.
the email (bounced|went to spam|contained a broken link|was addressed to somebody else).
I am a small business owner and this (drained|tied up|disrupted) my (cash flow|payroll|operations|savings).
their (research|recovery|escalation|retention|resolution) team (never|hardly) (reviewed|examined|studied) (the
  evidence|my file|the timeline).
on a recorded line <rep> (confirmed|acknowledged|guaranteed) that (the error was theirs|I was correct|it would be
  reversed).
the (timeline|history|ledger|spreadsheet) that I (built|prepared|typed) shows (every|each)
  (transaction|mistake|contact).
the (stress|anxiety|pressure|uncertainty) has (affected|harmed|strained) my (health|marriage|sleep|family|job).
I (posted|wrote) on (social media|their page) and only then did (someone|a moderator) (react|answer).
they (quoted|cited|mentioned) a (policy|regulation|guideline|federal rule) that (does not exist|nobody can show me|was
  repealed).
I (declined|rejected) the (settlement|goodwill gesture|gift|courtesy credit) of <money> since it (covers|repairs)
  (little|nothing|half).

wish:
please (help|help me|look into this|investigate|make them answer|do something).
I (want|would like|demand|ask for) (my money back|a refund|an apology|a written answer|the fee returned|the error
  corrected|this removed from my report).
I just want (this fixed|what is fair|what I was promised|it to be over|them to honor their word).
<bank> should (be ashamed|be fined|fix this|be held responsible|train its people).
thank you (for your help|for reading|in advance|for your time).
I will (never|not) (do business with|recommend|trust) <bank> again.
(what can I do|who can help me|how is this legal|is this allowed|why would they do this)?
I (hope|trust) (you|your office|the bureau) can (step in|resolve this|get an answer|hold them to account).
kindly (advise|respond|reply) as soon as possible.

card_open:
I (have|had|hold) a <card> with <bank> (since|opened in) <date>.
I (applied|signed up) for a <card> (at|with|from) <bank> (on|in) <date>.
this (complaint|letter|dispute) is about my <card> (with|from|issued by) <bank>.
<bank> (closed|cancelled|charged|blocked|restricted) my <card> (on|around) <date>.
on <date> I (noticed|found|saw|discovered) (a problem|charges|something odd|an error) on my <card>
  (account|statement|bill).
<bank> (will not|refuses to|did not) (fix|correct|honor|explain) (a charge|the terms|an error|the balance) on my <card>.
I have been a (card member|cardholder) (of|with) <bank> for (years|<span>|a decade).

card_named:
I (use|need|carry) the <card> for (work trips|medicine|daily errands|emergencies) and (now it is useless|have done so
  for years).
the back of the <card> lists a (hotline|telephone number) that nobody (answers|picks up).
<rep> <said> that my <card> (file|account) was under (review|investigation|escalation).
other card (companies|issuers) (solve|settle|handle) this in (minutes|one call|a day).
all I did was use my <card> (as intended|responsibly|within the rules).
the (agreement|booklet|fine print) that came with the <card> does not (mention|permit|cover) it.
the purchase charges on the <card> are (listed|circled|marked) on the (enclosed|attached) pages.

card_late_fee:
I was charged a late fee of <money> although the (minimum|minimum payment|full balance) was (paid|sent) <span> before
  the due date.
the due date (moved|changed) from the (fifth|tenth|first) to the (second|twentieth|last day) without notice.
they took my (minimum payment|payment) and still (added|billed) (a late charge|residual interest|a penalty rate of
  twenty nine percent).
the purchase rate (rose|jumped) to (24|26|29) percent after one late payment.
I always pay the (statement balance|card) in full, yet (interest|a finance charge) of <money> (posted|showed up) in
  <month>.
<rep> waived one late fee, then the next (billing cycle|statement) had another.
a grace period was (promised|advertised) but (interest|finance charges) began on the day of purchase.
the paper statement never came, so I did not know a (minimum|payment) was due on the card.

card_dispute:
I disputed a charge of <money> from a <shop> that never (delivered|sent|shipped) the <item>.
the merchant (refused|would not give|denied) a refund for the <item> and the bank sided with the
  (merchant|seller|store).
they gave me a temporary credit of <money> and then (reversed|took back|removed) it.
the dispute was closed because the <shop> sent (a receipt|an invoice|a contract) that (was forged|had another name on
  it|I never saw).
I returned the <item> to the <shop> and have the tracking number, but the chargeback was denied.
the <item> arrived (broken|damaged|used|in the wrong size) and the <shop> will not answer.
I cancelled the (trip|booking|order|membership) with the <shop> within the allowed time.
the dispute department asked for (more proof|the same papers|a police report) after the deadline had passed.
a <shop> billed me twice for one <item> and the second charge of <money> is still there.
the (concert|conference|wedding|festival) was cancelled and the (organizer|ticket seller|<shop>) offered only a voucher.
the <shop> shipped a counterfeit <item> from overseas and the bank calls it a quality dispute.
a (tip|gratuity|deposit) of <money> was added after I had signed the slip at the restaurant.

card_fraud:
there were (fraudulent|unauthorized|strange) (charges|purchases|transactions) of <money> at a <shop> in (another
  state|a foreign country|a city I never visited).
someone (stole|used|cloned|copied) my card number and bought a <item> and gift cards.
I reported the fraud (the same day|within hours|on <date>) and they mailed a new card to (the thief|the wrong
  address|my old apartment).
the fraud department decided that the chip was used, so the purchases must be mine.
a new card was opened in my name (by a stranger|by a relative|without my consent|by identity thieves).
I filed a police report about the stolen (card|wallet|purse).
they (flagged|declined|blocked) my own purchase at the (register|gas station|<shop>) as fraud and left me stranded.
an additional user that I never (approved|added|heard of) was put on my card.
the text alert asked whether I had bought a <item> and I answered no.
the (skimmer|hacker|crook) drained the card through (tiny test charges|ride shares|food deliveries|gambling sites).
the investigator decided that I had (participated|benefited|shared my password), which is absurd.

card_rewards:
I was promised (a bonus|bonus points|a welcome offer|a sign up bonus) of (20,000|50,000|60,000) points after spending
  <sum> in ninety days.
the (points|miles|rewards|cash back) I earned were (taken away|forfeited|never posted|cut in half|erased).
they say my <shop> purchases do not (count|qualify|earn) as (travel|dining|groceries).
I tried to redeem my (points|miles|rewards) for a <item> and the (portal|website|desk) rejected it.
the online offer said <money> back, but the banker opened a card with another offer.
my companion (ticket|pass|certificate) expired before the airline would take it.
the introductory offer for the rewards card was (changed|withdrawn) after I was approved.
they told me that I do not get the bonus because I held the same card (within two years|before|in the past).
the lounge access, the luggage credit and the insurance that come with the card were refused at the airport.
the rotating bonus category was not activated although I clicked the button.

card_transfer:
I accepted a balance transfer offer at zero percent for (twelve|fifteen|eighteen) months.
the balance transfer fee was (three|five) percent instead of the none that I was promised.
they charged the regular purchase rate on the balance I moved from another card.
the promotional rate ended (early|two months before the date in the offer|without notice).
my payments went to the transferred balance and not to new purchases, so interest piled up.
the transfer check to the other card company was (lost|mailed late|sent to the wrong bank).
the convenience checks that came with the statement were cashed as a cash advance.

card_limit:
they (lowered|cut|slashed) my credit limit from <sum> to <money> (for no reason|overnight|while I was traveling).
my utilization went up when the credit line was cut.
I asked for a higher limit and they did a hard (inquiry|pull) without my consent.
my application was (denied|declined|rejected) because of (too many inquiries|income|a short history) although my score
  is (740|780|810).
they said that they could not verify my income for the card.
the secured deposit of <money> was not returned when the card graduated.
I was approved for the card by mail and then denied at the (branch|register|desk).
an over limit fee of <money> was charged although I had never agreed to go over the limit.

card_prepaid:
I tried to (activate|register) the prepaid card and the (code|pin|number) on the back did not work.
the gift card had a balance of zero when it was first (swiped|used|scanned) at the <shop>.
my unemployment benefits are on the prepaid debit card and someone took <money> at a cash machine.
the prepaid card was (locked|frozen) with <money> of my wages on it.
they want a picture of the prepaid card and the receipt from the <shop> where I bought it.
the replacement card (never came|was lost in the mail|came without a pin).
a monthly fee ate up the money on the prepaid card.

card_closed:
they closed my card (without notice|because of inactivity|after a review|for a reason they can not share).
I (closed|cancelled) the card in <month> and they still billed an annual fee of <money>.
the annual fee was to be waived for the first year.
the account was charged off and sold although I had (a payment plan|settled for half|paid the balance).
I asked to close the card and they (kept it open|reopened it|offered me points to stay).
recurring charges from a <shop> went through on the closed card.
a subscription with a free trial kept billing the card every month.
foreign transaction fees were added to purchases made with the travel card.
they would not remove (an authorized user|my ex|my late father) from the card.

card_aside:
I also have a credit card (with <bank>|there|from them) and (never had a problem with it|it is paid every month|they
  treat me the same way).
the (payment|money) for my credit card went through on the same day.
they even tried to sell me a (credit card|rewards card|visa card) (on the call|at the desk) while I was
  (crying|waiting|asking for help).
I had to put (groceries|my bills|food and gas) on my credit cards (because of this|to get by|for months).
my credit card with the same bank was (closed|cut|limited) (because of|after) this.
<family> paid it with a (credit card|debit card) once.
I (carry|keep) a card, a savings account and (an auto loan|a checking account) there too.

card_hint:
the merchant never (answered|wrote back|showed up) and I have been out <money> since <month>.
I was standing at the (register|cashier) of a <shop> when it was (declined|refused).
the <item> that I ordered never (came|arrived|shipped).
the points that I saved for a trip are (gone|worthless|missing).
I only (swipe|use|tap) it for gas and groceries.
a <shop> in another country (took|ran|posted) <money> (overnight|twice|while I slept).
I cut it up and threw it away in <month>, yet the fee is back.
I pay the minimum each month and the statement still shows a finance charge.
the plastic came in the mail with my name (misspelled|wrong|spelled two ways).
my wallet was stolen on the train and I (called|reported it) within the hour.
the limit was cut in half while I was (traveling|overseas|on vacation).
the free trial with the <shop> turned into a monthly charge.

mortgage_open:
I (have|had|hold) a <loan> with <bank> (on my <house>|since <date>|for our <house>).
I (applied|was approved) for a <loan> (at|with|through) <bank> (on|in) <date>.
this (complaint|letter|dispute) is about my <loan> (with|serviced by|held by) <bank>.
<bank> (services|owns|bought|took over|sold) (my|our) <loan> (in|on) <date>.
(we|<family> and I) bought (a|our) <house> in (2004|2006|2007|2009|2015|2018) and <bank> (holds|serviced) the <loan>.
<bank> (will not|refuses to|did not) (fix|correct|honor|explain) (the terms|an error|the balance|the payment) on my
  <loan>.
on <date> I (noticed|found|saw|discovered) (a problem|charges|something odd|an error) on my <loan>
  (account|statement|bill).

mortgage_named:
I (pay|paid) the <loan> (early|on the first|ahead of schedule) (every month|each month|without fail) (for years|since
  closing|until this).
the <loan> is (secured by|tied to) the <house> where (my grandchildren|three generations|my disabled sister|both of
  us) live.
<rep> <said> that my <loan> (file|account) was under (review|investigation|escalation).
other mortgage (companies|lenders) (solve|settle|handle) this in (minutes|one call|a day).
all we want is to keep our <house> and (pay the loan|go on paying|sleep at night).
the (agreement|booklet|fine print) that came with the <loan> does not (mention|permit|cover) it.
our <house> payment history on the <loan> is (enclosed|attached|spotless).

mortgage_escrow:
my escrow account (was short|shows a shortage|was miscalculated) by <sum> and my monthly payment (rose|jumped|went up)
  by <money>.
they did not pay my property taxes to the (county|city|township) on time, and a penalty of <money> was added.
the county (treasurer|tax office|assessor) says that the taxes were never (paid|received).
they paid the taxes for (another parcel|the wrong property|my neighbor's lot) out of my escrow.
the escrow analysis (makes no sense|came twice|is wrong by thousands|counts the tax bill two times).
I asked to remove escrow because I (pay my own taxes|have twenty percent equity|am over seventy).
the escrow refund was not (sent|mailed) after I paid off the loan.
a senior tax exemption on our home was ignored.

mortgage_insurance:
they bought force placed insurance for <sum> although my homeowners policy was (active|paid|in force).
my insurance company (sent|faxed) the declaration page <count> times.
the homeowners policy was cancelled because the servicer did not pay the premium from escrow.
they want flood insurance on a <house> that sits on a hill.
the private mortgage insurance should have come off at eighty percent of the value.
they will not drop the PMI unless I pay for (a new appraisal|their own broker).
the insurance check for the (roof|storm damage|fire|burst pipe) was (kept|held) and the contractor walked off.
the claim money for our damaged <house> was released in (tiny parts|thirds) after an inspection.
the hurricane tore off the shingles and the mold spread while they held the claim money.
they require an elevation certificate although the flood map was redrawn.

mortgage_modification:
we applied for a loan modification and sent the (same papers|package|pay stubs|tax returns) <count> times.
the modification was denied because of (negative net value|a missing page|too much income|too little income|a missed
  deadline).
I made (three|four) trial payments of <sum> on time and they still (denied|cancelled) the permanent modification.
our (single point of contact|relationship manager|case worker) changed <count> times.
the unpaid interest was added to the principal, so we owe more than the <house> is worth.
the hardship letter explained that I <trouble>.
they told us to stop paying so that we could qualify for the program.
the government program for homeowners was never offered to us.
the forbearance ended and they wanted all <count> payments at once instead of adding them to the end of the loan.

mortgage_foreclosure:
they (started|filed|scheduled) foreclosure on (my|our) <house> while the application was under review.
a sale date was (set|posted on our door) (for|by) the sheriff.
a (trustee|lawyer|law firm) sent us a notice of (default|sale|acceleration).
the auction took place (a day after they had promised to stop it|while we were at the court).
we offered to reinstate the loan and they sent our check back.
a short sale with a buyer at <sum> was (turned down|delayed until the buyer left).
they changed the locks and threw out our furniture while we still lived in the <house>.
attorney fees of <sum> were added to the arrears.
we asked for a deed in lieu and heard nothing.
a realtor with a clipboard took pictures of our <house> and said that the bank had ordered a drive by inspection.
the bankruptcy court confirmed our plan, yet the servicer kept charging inspection and attorney fees.

mortgage_refinance:
I started a refinance to lower my rate from (six|five|seven) percent to (three|four) percent.
the rate lock expired because (underwriting|the processor|the loan officer) took <span>.
the loan officer asked for (pay stubs|bank statements|tax returns|a gift letter) again and again.
the appraisal came in (low|at <sum>), and they would not (correct|review) it.
the appraiser counted (two|three) bedrooms instead of four and left out the (garage|basement|pool|new kitchen).
I paid <money> for the appraisal and the application was then denied.
the closing was (moved|put off|cancelled) <count> times and the seller walked away.
the closing costs on the final disclosure were <sum> higher than on the estimate.
they dropped our purchase loan two days before closing, and we lost the earnest money.
the builder's preferred lender promised (credits|discount points|a buy down) that vanished from the settlement sheet.
the underwriter questioned (a gap in employment|my overtime|child support|rental income|a gift from my parents)
  <count> times.
the survey and the septic inspection delayed our closing on the <house>.

mortgage_payoff:
I asked for a payoff (quote|statement|letter) on <date> and the figure was wrong.
I paid off the mortgage, and they (have not released|never recorded the release of) the lien.
the deed of trust is still recorded at the county, so I can not sell my <house>.
the title company wired <sum>, and the servicer sent it back.
the satisfaction of the mortgage was (never filed|filed under the wrong name).
there is an old equity line on the title that was paid off in (2006|2009|2012).
extra payments toward principal were put (into escrow|toward next month's payment|in a suspense account).
a prepayment penalty that is not in the note was charged.

mortgage_transfer:
our loan was (transferred|sold) to a new servicer, and the payment that I sent to the old one was lost.
the new servicer says that we are behind although (the old one|the prior servicer) took every payment.
they can not produce the original (note|deed|assignment).
the modified terms were not honored by the new servicer.
I got the goodbye letter after the first payment to the new company was due.
the tax form with the mortgage interest that I paid is (wrong|missing|in another person's name).
the loan history has a gap of <span> between the servicers.

mortgage_estate:
my (mother|father|husband|grandmother) died, and they will not talk to me about the <house> that I inherited.
I sent the death certificate and the probate papers, yet they call me an unauthorized third party.
after the divorce the judge gave me the <house>, but the loan is still in both names.
they will not let me assume the loan of my late (mother|husband|father).
the reverse mortgage came due when my (mother|father) moved to a nursing home.
my name is on the deed but not on the note.
the adjustable rate reset and our monthly payment grew from <money> to <sum>.
the biweekly plan for the house payment holds my money until the end of the month.

mortgage_aside:
I also have a mortgage (with <bank>|there|from them) and (never had a problem with it|it is paid every month|they
  treat me the same way).
the (payment|money) for my mortgage went through on the same day.
they even tried to sell me a (mortgage|home equity loan|refinance) (on the call|at the desk) while I was asking for
  help.
we were about to close on a (house|home|mortgage) and the lender (saw this|turned us down|raised our rate) because of
  it.
I (could not|can not) (refinance my mortgage|buy a house|get a home loan) because of this.
<family> and I just bought our first home with a loan from (another bank|the same bank).
I missed a (house|mortgage) payment because the money was tied up.

mortgage_hint:
the county (wrote|says|told us) that the bill for the lot was not paid in <month>.
the roof still leaks and they hold the check from the adjuster.
the appraiser never went (inside|upstairs|into the basement).
we were to sign at the title office on <date>, and the seller left.
the sheriff taped a notice to our front door.
our underwriter changed three times, and the lock ran out.
we may have to move out with (three children|our kids|two dogs) before <month>.
the analysis says that we are short <money> a month although the taxes went down.
the deed is recorded in (my|our) names, yet they call us strangers.
the judge gave me the place in the divorce, and they will not talk to me.
the new servicer says that the old one kept the money.
our trial plan was finished in <month>, and we were denied all the same.

deposit_open:
I have a (checking|savings|joint checking) account with <bank>.
I opened a (checking|savings|business checking) account at <bank> on <date>.

deposit_story:
they charged <count> overdraft fees of {$35.00} in one day by (posting the largest item first|holding my deposit).
my (paycheck|direct deposit|cashier's check) of <sum> was held for <span>.
my checking account was closed and the money was mailed to an old address.
a cash machine counted my cash wrong and kept <money>.
someone forged my signature on a check for <sum>.
the new account bonus of <money> for direct deposit was not paid.
a wire for <sum> was sent out of my savings by a thief.
a monthly maintenance fee was taken although I keep the minimum balance.
my debit card was used at a cash machine by somebody who knew the pin.
the account is frozen, and my rent check bounced.
they opened a second savings account that I did not ask for.
the teller deposited my check into the account of another person.
the night drop envelope with the rent from my tenants was never credited.
the certificate of deposit renewed itself at a tiny rate while I was abroad.
the safe deposit box was drilled open and grandmother's bracelet is missing.

report_open:
there is (wrong|false|outdated) information from <bank> on my credit report.
I pulled my credit report on <date> and found an account with <bank>.

report_story:
the account on my report does not belong to me and must be (deleted|blocked|removed).
an inquiry from <date> was made without my permission.
the bureaus verified it in two days without any investigation.
I am a victim of identity theft and sent an affidavit.
the balance on the report should read zero since it was included in bankruptcy.
the same debt is listed <count> times by different furnishers.
the date of first delinquency was changed to keep it on longer.
under the fair credit reporting act they must answer in thirty days.
my file is mixed with that of a person with a similar name.
late marks from <date> are false and keep me from renting an apartment.
they report it as open although it was settled and closed.
the fraud alert and the security freeze were lifted without my password.
an old eviction and somebody else's maiden name appear in my file.

debt_open:
<bank> is trying to collect a debt of <sum> that I do not (owe|recognize).
a collector who works for <bank> calls me about (an old|a medical|a paid) debt.

debt_story:
I asked for validation of the debt, and they sent a computer printout.
the hospital bill was paid by my insurance in <month>.
the collector (threatened|yelled at|cursed at) me and said that I would be arrested.
they called my (neighbor|boss|grandmother|coworkers) about the debt.
the debt is past the statute of limitations in my state.
a lawsuit was filed, and I was never served with the papers.
they garnished my wages for a person with the same name.
I offered to settle for <money>, and they took the money and kept calling.
the old phone bill was never mine, since I had another carrier.
the collection agency does not have a license in my state.
the ambulance charge went to an agency before the insurer had processed it.
the robocalls leave threatening voicemail on my office telephone.

student_open:
<bank> (services|handles|bought) my student loans.
I have (federal|private) student loans with <bank>.

student_story:
my income driven repayment application was denied <count> times.
they put my student loans into forbearance without asking, and the interest was capitalized.
my school closed, and I applied for a discharge.
the payments for public service forgiveness were miscounted.
my co-signer was to be released after (24|36|48) payments.
the university certified that I was enrolled at least half time.
they spread my extra payment over all loans instead of the one with the highest rate.
I graduated in (2010|2012|2015) and owe more than I borrowed for tuition.
the deferment for my residency was lost.
consolidation took <span>, and two loans were left out.
the trade school lied about job placement and lost its accreditation.
the parent loan that my mother signed was never recertified.

vehicle_open:
I (financed|leased) a (car|truck|vehicle) through <bank>.
I have an auto loan with <bank>.

vehicle_story:
the dealer added a warranty for <sum> that I did not want.
they repossessed my (truck|car|van) from my driveway although I was only <span> behind.
the title of the car was not sent after the auto loan was paid.
the lease return inspector charged me for (tires|scratches|extra miles).
the car was totaled, and the gap insurance did not pay.
the odometer reading in the contract was wrong.
my belongings in the repossessed car were thrown away.
the dealer forged my income on the application for the truck.
I asked for a due date that fits my pay day.
the engine failed after a month, and the dealer went out of business.
the tow truck driver broke the bumper and the auction sold it below wholesale.
the lease buyout price in the contract was raised by dealership paperwork fees.

transfer_open:
I sent money (through|with) <bank> and it (never arrived|went to the wrong person).
I have a (wallet|digital wallet|money transfer account) with <bank>.

transfer_story:
a scammer who said that he was from the fraud department made me send <sum>.
the transfer to my cousin abroad was cancelled, and the money was not returned.
I typed one digit of the phone number wrong, and a stranger has my <money>.
the seller of the puppy vanished after I sent the money.
my coins were stolen from the digital wallet.
the exchange froze my withdrawal for <span>.
the money order was cashed by somebody else.
the pick up office asked for a code that was never sent.
the rate that they used for the exchange was far from the market.
they say that I authorized the transfer, so it can not be reversed.
the landlord in the listing was fake, and the deposit is gone.
the romance on the dating site was a trick and the wire went to a shell company.
the kiosk printed no receipt and swallowed twenty dollar bills.
""")

TOPICS = {
    about: [rule for rule in GRAMMAR if re.fullmatch(rf"{about}_(?!open|named|aside|hint).+", rule)]
    for about, _, _ in PRODUCTS.values()
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m mini.writer PATH")
    print(write_complaints(Path(sys.argv[1])))
