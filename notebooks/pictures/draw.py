"""The schematics that the notebooks show, drawn by code and from no data: `python notebooks/pictures/draw.py`.

Grey is frozen, orange an adapter, blue the classification head and the vector that it reads. The three differ in brightness as well.
"""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

BLUE, ORANGE = (
    to_rgb("#0173b2"),
    to_rgb("#de8f05"),
)  # the first two of seaborn's palette "colorblind"
WHITE, GREY, PALE, INK = to_rgb("white"), to_rgb("0.87"), to_rgb("0.76"), to_rgb("0.3")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "mathtext.fontset": "cm",
    "lines.linewidth": 1.4,
}

ADAPTED = {"out_lin", "lin1", "lin2", "c_attn", "c_proj", "c_fc"}
HEAD = {"pre_classifier", "classifier", "score"}

Point = tuple[float, float]
Colour = tuple[float, float, float]


def sheet(width: float, height: float) -> plt.Axes:
    """Return empty axes as large as their new figure, with one inch as the unit on both."""
    axes = plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def mix(colour: Colour, share: float | np.ndarray) -> np.ndarray:
    """Return the share of the colour mixed with white, the shape of the share with three channels at its end."""
    return 1 - share * (1 - np.array(colour))


def tints(colour: Colour, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Return the colour mixed with white in various shares, shape (rows, columns, 3)."""
    return mix(colour, np.random.default_rng(seed).uniform(0.3, 1, (rows, columns, 1)))


def write(axes: plt.Axes, place: Point, text: str, **look: Any) -> None:
    """Draw a text around the place, or as `look` says."""
    axes.text(*place, text, **{"ha": "center", "va": "center", "zorder": 5} | look)


def draw_cells(
    axes: plt.Axes, middle: Point, fills: np.ndarray, size: float = 0.2
) -> None:
    """Draw a matrix as cells of the given colours, shape (rows, columns, 3)."""
    rows, columns = fills.shape[:2]
    left, top = middle[0] - columns * size / 2, middle[1] + rows * size / 2
    for row, column in np.ndindex(rows, columns):
        corner = left + column * size, top - (row + 1) * size
        axes.add_patch(
            Rectangle(
                corner,
                size,
                size,
                facecolor=fills[row, column],
                edgecolor="white",
                zorder=3,
            )
        )
    corner, width, height = (left, top - rows * size), columns * size, rows * size
    axes.add_patch(
        Rectangle(
            corner, width, height, fill=False, edgecolor=INK, linewidth=1.2, zorder=4
        )
    )


def draw_arrow(axes: plt.Axes, *points: Point) -> None:
    """Draw a line through the points that ends in an arrow head."""
    axes.plot(*zip(*points, strict=True), color=INK, solid_capstyle="butt", zorder=1)
    shape = {
        "arrowstyle": "-|>",
        "color": INK,
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 14,
    }
    axes.annotate("", points[-1], points[-2], arrowprops=shape, zorder=2)


def draw_sum(axes: plt.Axes, middle: Point) -> None:
    """Draw a plus sign in a circle."""
    axes.add_patch(
        Circle(middle, 0.14, facecolor="white", edgecolor=INK, linewidth=1.4, zorder=3)
    )
    (x, y), reach = middle, 0.07
    axes.plot([x - reach, x + reach], [y, y], color=INK, zorder=4)
    axes.plot([x, x], [y - reach, y + reach], color=INK, zorder=4)


def draw_round(
    axes: plt.Axes, corner: Point, width: float, height: float, **look: Any
) -> None:
    """Draw a rectangle with round corners, its lower left corner given."""
    axes.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle="round,pad=0,rounding_size=0.07", **look
        )
    )


def draw_box(
    axes: plt.Axes,
    middle: Point,
    text: str,
    fill: Colour = GREY,
    width: float = 2.0,
    adapter: bool = False,
) -> None:
    """Draw a part of a model as a box with its name; an adapter is a tag at its right end."""
    (x, y), height = middle, 0.34
    draw_round(
        axes,
        (x - width / 2, y - height / 2),
        width,
        height,
        facecolor=fill,
        edgecolor=INK,
        zorder=3,
    )
    if adapter:
        corner = x + width / 2 - 0.12, y - height / 2 - 0.04
        axes.add_patch(
            Rectangle(
                corner, 0.2, height + 0.08, facecolor=ORANGE, edgecolor=INK, zorder=4
            )
        )
    write(
        axes,
        (x - 0.05 * adapter, y - 0.01),
        text,
        color="white" if fill == BLUE else "black",
    )


def draw_lora() -> None:
    """Draw one layer with LoRA: the frozen matrix W and, beside it, the path through A and B."""
    axes = sheet(9, 4.8)
    upper, middle, lower = 3.4, 2.35, 1.25
    draw_cells(axes, (0.65, middle), tints(INK, 8, 1))
    draw_cells(axes, (3.2, upper), tints(to_rgb("0.6"), 8, 8))
    draw_cells(axes, (2.6, lower), tints(ORANGE, 2, 8))
    draw_cells(axes, (4.1, lower), tints(INK, 2, 1))
    draw_cells(axes, (5.1, lower), np.full((8, 2, 3), mix(ORANGE, 0.25)))
    draw_cells(axes, (8.35, middle), tints(INK, 8, 1, seed=1))
    for row, column in np.ndindex(8, 2):
        write(axes, (5.0 + 0.2 * column, lower + 0.69 - 0.2 * row), "0", size=11)
    draw_box(axes, (6.35, lower), "", WHITE, width=1.0)
    write(axes, (6.35, lower), r"$\times\ \alpha / r$", size=16)
    draw_sum(axes, (7.4, middle))
    draw_arrow(axes, (0.75, middle), (1.25, middle), (1.25, upper), (2.4, upper))
    draw_arrow(axes, (1.25, middle), (1.25, lower), (1.8, lower))
    draw_arrow(axes, (3.4, lower), (4.0, lower))
    draw_arrow(axes, (4.2, lower), (4.9, lower))
    draw_arrow(axes, (5.3, lower), (5.85, lower))
    draw_arrow(axes, (6.85, lower), (7.4, lower), (7.4, middle - 0.14))
    draw_arrow(axes, (4.0, upper), (7.4, upper), (7.4, middle + 0.14))
    draw_arrow(axes, (7.54, middle), (8.25, middle))
    name_lora(axes, upper, middle, lower)


def name_lora(axes: plt.Axes, upper: float, middle: float, lower: float) -> None:
    """Draw the names, sizes and starting values around the three heights of the layer."""
    write(axes, (0.65, middle + 1), "$x$", size=17)
    write(axes, (3.2, upper + 1), r"$W$:  $d \times d$", size=17)
    write(axes, (2.6, lower + 0.42), r"$A$:  $r \times d$", size=17)
    write(axes, (5.1, lower + 1), r"$B$:  $d \times r$", size=17)
    write(axes, (8.35, middle + 1), "$y$", size=17)
    write(axes, (7.1, upper + 0.2), "$W x$", size=17)
    write(axes, (7.4, lower - 0.35), r"$\frac{\alpha}{r}\;B A x$", size=17)
    write(axes, (0.65, middle - 1), "$d$ numbers")
    write(axes, (3.2, upper - 1), "frozen")
    write(axes, (2.6, lower - 0.42), "trained, starts at random")
    write(axes, (4.1, lower + 0.42), "$r$ numbers")
    write(axes, (5.1, lower - 1), "trained, starts at zero")
    write(axes, (8.35, middle - 1), "$d$ numbers")
    write(axes, (7.85, 0.25), "drawn for $d = 8$, $r = 2$", color=INK)


def height(row: float) -> float:
    """Return the height of a row of the blocks, counted from the embeddings up, in inches."""
    return 0.95 + 0.53 * row


def draw_column(
    axes: plt.Axes, x: float, parts: dict[float, str], skips: dict[float, float]
) -> None:
    """Draw a column of parts, {row: name}, with an arrow between neighbours and the paths that skip some, {from: to}."""
    rows = sorted(parts)
    for row, above in pairwise(rows):
        draw_arrow(
            axes,
            (x, height(row) + 0.1),
            (x, height(above) - (0.14 if parts[above] == "+" else 0.17)),
        )
    for row, name in parts.items():
        if name == "+":
            draw_sum(axes, (x, height(row)))
        else:
            fill = (
                WHITE if name.endswith("attention") else BLUE if name in HEAD else GREY
            )
            draw_box(
                axes,
                (x, height(row)),
                name,
                fill,
                3.15 if fill == WHITE else 2.0,
                name in ADAPTED,
            )
    for start, end in skips.items():
        left = x - 1.8
        draw_arrow(
            axes,
            (x, height(start)),
            (left, height(start)),
            (left, height(end)),
            (x - 0.14, height(end)),
        )


def draw_frame(axes: plt.Axes, x: float, title: str, blocks: int) -> None:
    """Draw what both models have: the title, the frame around a block, and the names of its halves."""
    write(axes, (x, height(13.1)), title, weight="bold", size=15)
    low, high = height(0.42), height(9.55)
    draw_round(
        axes,
        (x - 2.05, low),
        4.1,
        high - low,
        facecolor="0.965",
        edgecolor="0.6",
        zorder=0,
    )
    write(axes, (x + 1.6, height(9.05)), f"× {blocks}", weight="bold", size=15)
    write(axes, (x + 1.87, height(2.9)), "attention", rotation=90)
    write(axes, (x + 1.87, height(7.2)), "feed-forward", rotation=90)


def draw_tokens(axes: plt.Axes, x: float, row: float, chosen: int) -> None:
    """Draw the vectors of six tokens as cells, with an arrow from the chosen one to the head."""
    fills = np.full((1, 6, 3), GREY)
    fills[0, chosen] = BLUE
    draw_arrow(axes, (x, height(row - 1) + 0.17), (x, height(row) - 0.15))
    draw_cells(axes, (x, height(row)), fills, size=0.3)
    place = x - 0.75 + 0.3 * chosen
    draw_arrow(axes, (place, height(row) + 0.15), (place, height(row + 1) - 0.17))


def draw_blocks() -> None:
    """Draw one block of DistilBERT and one of GPT-2, each with its adapters and its classification head."""
    axes = sheet(9, 8.3)
    x = 2.3
    draw_frame(axes, x, "DistilBERT", 6)
    for place, name in ((x - 1.08, "q_lin"), (x, "k_lin"), (x + 1.08, "v_lin")):
        draw_arrow(
            axes,
            (x, height(-0.25)),
            (x, height(0.5)),
            (place, height(0.5)),
            (place, height(1) - 0.17),
        )
        draw_box(axes, (place, height(1)), name, width=0.9, adapter=True)
        draw_arrow(axes, (place, height(1) + 0.17), (place, height(2) - 0.17))
    parts = [
        "full attention",
        "out_lin",
        "+",
        "sa_layer_norm",
        "lin1",
        "lin2",
        "+",
        "output_layer_norm",
    ]
    draw_column(axes, x, dict(enumerate(parts, 2)), {0.5: 4, 5.5: 8})
    draw_box(axes, (x, height(-0.25)), "embeddings")
    draw_column(axes, x, {11: "pre_classifier", 12: "classifier"}, {})
    draw_tokens(axes, x, 10, 0)
    write(axes, (x - 0.97, height(10)), "[CLS]", ha="right")
    x = 6.7
    draw_frame(axes, x, "GPT-2", 12)
    parts = [
        "ln_1",
        "c_attn",
        "causal attention",
        "c_proj",
        "+",
        "ln_2",
        "c_fc",
        "c_proj",
        "+",
        "ln_f",
    ]
    draw_column(
        axes, x, {-0.25: "embeddings"} | dict(enumerate(parts, 1)), {0.5: 5, 5.5: 9}
    )
    draw_column(axes, x, {12: "score"}, {})
    draw_tokens(axes, x, 11, 5)
    write(axes, (x + 0.97, height(11)), "last token", ha="left")
    meanings = [
        (0.6, GREY, "frozen"),
        (2.0, ORANGE, "adapter, trained"),
        (4.3, BLUE, "classification head, trained"),
        (7.5, WHITE, "no weights"),
    ]
    draw_legend(axes, meanings)


def draw_legend(axes: plt.Axes, meanings: list[tuple[float, Colour, str]]) -> None:
    """Draw what the colours mean, each given by its place from the left, the colour, and the meaning."""
    for x, fill, meaning in meanings:
        axes.add_patch(Rectangle((x, 0.2), 0.2, 0.26, facecolor=fill, edgecolor=INK))
        write(axes, (x + 0.3, 0.33), meaning, ha="left")


def draw_matrix(
    axes: plt.Axes,
    left: float,
    top: float,
    tokens: list[str],
    sees: np.ndarray,
    read: int,
) -> None:
    """Draw which token (a row) sees which (a column), and the row that the head reads in the head's colour."""
    size, count = 0.36, len(tokens)
    fills = np.where(sees[..., None], PALE, WHITE)
    fills[read] = BLUE
    draw_cells(axes, (left + count * size / 2, top - count * size / 2), fills, size)
    for i, token in enumerate(tokens):
        weight = "bold" if i == read else "normal"
        write(
            axes, (left - 0.1, top - (i + 0.5) * size), token, ha="right", weight=weight
        )
        tilted = {
            "ha": "left",
            "va": "center",
            "rotation": 50,
            "rotation_mode": "anchor",
        }
        write(axes, (left + (i + 0.5) * size, top + 0.1), token, **tilted)
    right, height = left + count * size, top - (read + 0.5) * size
    draw_arrow(axes, (right, height), (right + 0.35, height))
    draw_box(axes, (right + 0.7, height), "head", BLUE, width=0.7)


def draw_attention() -> None:
    """Draw which token attends to which: all to all in DistilBERT, only to earlier ones in GPT-2."""
    axes = sheet(9, 4.9)
    words = ["They", "charged", "my", "card", "twice"]
    full = ["[CLS]", *(word.lower() for word in words), "[SEP]"]
    write(axes, (2.36, 4.65), "DistilBERT: full attention", weight="bold", size=15)
    write(axes, (6.8, 4.65), "GPT-2: causal attention", weight="bold", size=15)
    draw_matrix(axes, 1.1, 3.6, full, np.ones((7, 7), bool), 0)
    draw_matrix(axes, 5.9, 3.24, words, np.tri(5, dtype=bool), 4)
    write(axes, (2.36, 0.85), "every token sees all 7, [CLS] too")
    write(axes, (6.8, 1.21), "only the last token sees all 5")
    write(axes, (6.98, 3.06), "sees only itself")
    meanings = [
        (0.7, PALE, "the row sees the column"),
        (3.45, WHITE, "it does not"),
        (5.1, BLUE, "it does, and the head reads this row"),
    ]
    draw_legend(axes, meanings)


PICTURES = {"lora": draw_lora, "blocks": draw_blocks, "attention": draw_attention}


def main(folder: Path) -> None:
    """Draw all pictures into the folder as PNG, 1,440 pixels wide: crisp where a page shows them at 900."""
    with plt.rc_context(STYLE):
        for name, draw in PICTURES.items():
            draw()
            plt.savefig(folder / f"{name}.png", dpi=160, pil_kwargs={"optimize": True})
            plt.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
