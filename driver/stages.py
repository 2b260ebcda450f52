"""The stages of the series, and what further seeds, the controls and a sweep make of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from driver import Refused
from driver.parameters import closest

SERIES = "RUN_ALL_SERIES"  # the variable that tells a notebook where 01 and 02 wrote what it reads


@dataclass(frozen=True)
class Stage:
    """One notebook's place in the series: the stages it needs, the files (patterns under OUT) it makes, its own values.

    The name is the notebook's, in the folder under OUT that it writes to: 03_distilbert_lora, or seeds/7/03_distilbert_lora.
    """

    name: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)  # by which it differs from others of its notebook

    @property
    def notebook(self) -> str:
        """Return the name of the stage's notebook, without folder and ending."""
        return self.name.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Return the folder under OUT that the stage writes to, "" for OUT itself."""
        return self.name.rpartition("/")[0]

    @property
    def series(self) -> str:
        """Return the folder under OUT in which the 01 and 02 that it needs write."""
        folders = [need.rpartition("/")[0] for need in self.needs if need.rpartition("/")[2] in DATA]
        return folders[0] if folders else self.folder

    def in_folder(self, folder: str, moved: Collection[str], values: dict[str, Any]) -> "Stage":
        """Return the stage as it stands in a folder, with its values, and finds there those that have moved there too."""
        needs = (f"{folder}/{need}" if need in moved else need for need in self.needs)
        makes = (f"{folder}/{pattern}" for pattern in self.makes)
        return Stage(f"{folder}/{self.name}", tuple(needs), tuple(makes), self.values | values)


def stage(name: str, needs: tuple[str, ...], *makes: str) -> Stage:
    """Return a stage that makes these files, a result file, and figures."""
    figures = name[:2] if name[0].isdigit() else name
    return Stage(name, needs, (*makes, f"results/{name}.json", f"plots/{figures}_*.png"))


DATA = ("01_data", "02_test_data")
ADAPTERS = ("03_distilbert_lora", "04_gpt2_lora")  # to which controls belong
TRAININGS = (*ADAPTERS, "05_gpt2_qlora")  # run once for each seed, as the controls are
CONTROLS = ("appendix_rates", "appendix_controls")  # run where they are asked for
LABELS = "appendix_labels"  # as is this, for each draw of labelled complaints and for all together
STAGES = (
    stage("01_data", (), "data/pool.parquet", "data/train.parquet"),
    stage("02_test_data", ("01_data",), "data/held_out.parquet"),
    stage("03_distilbert_lora", DATA, "models/03_distilbert_lora/*"),
    stage("04_gpt2_lora", (*DATA, "03_distilbert_lora"), "models/04_gpt2_lora/*"),
    stage("05_gpt2_qlora", (*DATA, "04_gpt2_lora"), "models/05_gpt2_qlora/*"),
    stage("appendix_rates", (*DATA, *ADAPTERS)),  # this and the next with --controls
    stage("appendix_controls", (*DATA, *ADAPTERS, "appendix_rates"), "models/appendix_controls/*/*"),
    stage("06_comparing", DATA, "results/predictions.parquet", "plots/barplot_perfmetrics.png"),  # and all its RUNS
    stage("appendix_confidence", (*DATA, "06_comparing")),
    stage("appendix_errors", (*DATA, "06_comparing")),  # and all RUNS
    stage("appendix_use", (*DATA, *TRAININGS, "06_comparing"), "models/*/merged/*"),
    stage(LABELS, DATA),  # with --labels
)
NAMES = [stage.name for stage in STAGES]


def series(seeds: Sequence[int] = (), controls: bool = False, draws: int = 0) -> list[Stage]:
    """Return all stages in an order in which they can run: the first seed's at the top, each other's in seeds/SEED/.

    The learning-rate map is made once, with the first seed, for the controls of all seeds. Each draw of labelled complaints
    is a stage in draws/DRAW/, before the one that shows them all.
    """
    first_seed = {"SEED": seeds[0]} if seeds else {}
    first = {s.name: replace(s, values=first_seed) for s in STAGES if s.name in (*TRAININGS, *CONTROLS)}
    seeded = (*TRAININGS, "appendix_controls") if controls else TRAININGS
    more = [first[s].in_folder(f"seeds/{seed}", seeded, {"SEED": seed}) for seed in seeds[1:] for s in seeded]
    runs = [*seeded, *(stage.name for stage in more)]
    trained = [stage for name, stage in first.items() if name in TRAININGS or controls]
    last, confidence, errors, use, labels = STAGES[-5:]
    last = replace(last, needs=(*last.needs, *runs), values={"RUNS": runs})
    errors = replace(errors, needs=(*errors.needs, *runs))
    each_draw = [labels.in_folder(f"draws/{draw}", (), {"DRAWS": [draw]}) for draw in range(draws)]
    labels = replace(labels, needs=(*DATA, *(s.name for s in each_draw)), values={"DRAWS": list(range(draws))})
    of_labels = [*each_draw, labels] if draws else []
    return [*STAGES[:2], *trained, *more, last, confidence, errors, use, *of_labels]


def sweep_folder(name: str, value: object) -> str:
    """Return the folder under OUT of the series with this value of a parameter."""
    return f"sweep/{name}={value}"


def swept(stages: list[Stage], name: str, values: Sequence[Any], takers: Collection[str]) -> list[Stage]:
    """Return the stages once for each value of the parameter, which the notebooks among the takers have."""
    names = [stage.name for stage in stages]
    return [
        stage.in_folder(sweep_folder(name, value), names, {name: value} if stage.notebook in takers else {})
        for value in values
        for stage in stages
    ]


def short_name(name: str) -> str:
    """Return a notebook's name without folder and ending; Refused when there is none of that name."""
    short = name.rpartition("/")[2].removesuffix(".ipynb")
    if short not in NAMES:
        raise Refused(f"There is no notebook {name}. {closest(short, NAMES)}")
    return short


def select(stages: list[Stage], only: list[str] | None, first: str | None) -> list[Stage]:
    """Return those of the stages whose notebooks are named, or from the first on; all where neither is given."""
    chosen = [short_name(name) for name in only or NAMES]
    start = NAMES.index(short_name(first)) if first else 0
    return [stage for stage in stages if stage.notebook in chosen and NAMES.index(stage.notebook) >= start]
