"""The stages of the series, and what further seeds and the controls add to them."""

from driver.records import Stage

STAGES = (
    Stage(
        "01_data",
        needs=(),
        makes=("data/pool.parquet", "data/train.parquet", "results/01_data.json", "plots/01_*.png"),
    ),
    Stage(
        "02_test_data",
        needs=("01_data",),
        makes=("data/held_out.parquet", "results/02_test_data.json", "plots/02_*.png"),
    ),
    Stage(
        "03_distilbert_lora",
        needs=("01_data", "02_test_data"),
        makes=("models/03_distilbert_lora/*", "results/03_distilbert_lora.json", "plots/03_*.png"),
    ),
    Stage(
        "04_gpt2_lora",
        needs=("01_data", "02_test_data", "03_distilbert_lora"),
        makes=("models/04_gpt2_lora/*", "results/04_gpt2_lora.json", "plots/04_*.png"),
    ),
    Stage(
        "05_gpt2_qlora",
        needs=("01_data", "02_test_data", "04_gpt2_lora"),
        makes=("models/05_gpt2_qlora/*", "results/05_gpt2_qlora.json", "plots/05_*.png"),
    ),
    Stage(
        "controls",  # an appendix, run with --controls
        needs=("01_data", "02_test_data", "03_distilbert_lora", "04_gpt2_lora"),
        makes=("models/controls/*/*", "results/controls.json", "plots/controls_*.png"),
    ),
    Stage(
        "06_comparing",
        needs=("01_data", "02_test_data"),  # and all that its parameter RUNS names
        makes=(
            "results/06_comparing.json",
            "results/predictions.parquet",
            "plots/barplot_perfmetrics.png",
            "plots/06_*.png",
        ),
    ),
)
NAMES = [stage.name for stage in STAGES]
TRAININGS = ("03_distilbert_lora", "04_gpt2_lora", "05_gpt2_qlora")  # run once for each seed


def stages(seeds: list[int], controls: bool) -> list[Stage]:
    """Return all stages in an order in which they can run: the first seed's at the top, each other's in seeds/SEED/."""
    *first, appendix, last = STAGES
    trainings = [stage for stage in first if stage.name in TRAININGS]
    more = [stage.in_folder(f"seeds/{seed}", TRAININGS) for seed in seeds[1:] for stage in trainings]
    judged = [*trainings, *more, *([appendix] if controls else [])]
    last = Stage(last.name, (*last.needs, *(stage.name for stage in judged)), last.makes)
    return [*first, *judged[len(trainings) :], last]


def own_values(stage: Stage, seeds: list[int]) -> dict:
    """Return the parameters by which a stage differs from others of its notebook: its seed, or the runs it compares."""
    if stage.name == "06_comparing":
        return {"RUNS": [need for need in stage.needs if need not in NAMES[:2]]}
    if seeds and (stage.notebook in TRAININGS or stage.name == "controls"):
        return {"SEED": int(stage.folder.rpartition("/")[2] or seeds[0])}
    return {}
