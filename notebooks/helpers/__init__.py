"""What the notebooks and the programs share: `from helpers.models import predict`.

Whatever changes a number is decided on the notebooks; a function that a notebook teaches stands there first, and here word for
word. files: places, whole writes, hashes. sources: any complaint file as tables. hub: pinned snapshots. minilm: a pretrained
encoder without the hub. complaints: classes, selection, duplicates. machine: device, precision, costs. models: loading,
prediction, saving. training: `fit`. draws: rows of finished draws of labels. scores: scores, comparisons, calibration. verdicts: what a comparison says.
baselines: what a model has to beat. handover: a trained model as a folder that works anywhere. figures: everything drawn.
notebook: one notebook's run and its result file.
"""

import logging
import warnings

# Three messages are silenced here, one by one, before what prints them is imported; everything else is heard.
# bitsandbytes asks for an optional package of faster CPU kernels; the 4-bit numbers are the same without it.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda r: "kernels-community" not in r.getMessage())
# each load reports that the head is new: the notebooks say so in words
logging.getLogger("transformers.modeling_utils").addFilter(lambda r: "LOAD REPORT" not in r.getMessage())
# peft reads an attribute of transformers under its old name
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


class CheckFailed(Exception):
    """What a notebook claims, or what its data must fulfil, does not hold; the text says what was found."""


def check(condition: object, message: str) -> None:
    """Raise CheckFailed with the message unless the condition holds: an assert that no setting of Python switches off."""
    if not condition:
        raise CheckFailed(message)
