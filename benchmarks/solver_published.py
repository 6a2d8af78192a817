"""What others report on the graphs of `shared/instances`: overheads in percent, as printed.

Checkmate's MILP and MOCCASIN as re-printed by FastSA (NeurIPS 2023, table 1), FastSA itself, and optima proven by MOCCASIN's model
(order fixed, two computations a node). A dash is not reported; TLE: none in the time limit; x: over the budget.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row. Printed words, because the digits printed are what is compared."""

    checkmate: str = "-"
    moccasin: str = "-"
    fastsa: str = "-"
    fixed_optimum: str = "-"

    def best_free(self) -> str | None:
        """The smallest overhead that was reported, in any order; where that was over the budget, the figure without the x."""
        figures = [word.removesuffix(" x") for word in self[:3] if word not in ("-", "TLE")]
        return min(figures, key=float, default=None)


PUBLISHED: dict[tuple[str, int], Published] = {
    ("rl100", 90): Published("0.8", "0.8", "0.0", "0.789"),
    ("rl100", 80): Published("2.3", "2.3", "0.3", "2.296"),
    ("rl100", 70): Published(fastsa="2.2 x"),
    ("rl250", 90): Published("0.9", "0.9", "0.0"),
    ("rl250", 80): Published("TLE", "4.9", "0.0"),
    ("rl250", 70): Published(fastsa="2.6"),
    ("rl500", 90): Published("TLE", "0.7", "0.03"),
    ("rl500", 80): Published("TLE", "3.4", "2.3"),
    ("rl500", 70): Published(fastsa="4.8 x"),
    ("rl1000", 90): Published("TLE", "0.7", "0.4"),
    ("rl1000", 80): Published("TLE", "3.4", "2.5"),
    ("rl1000", 70): Published(fastsa="7.4"),
    ("fcn8", 90): Published("0.0", "0.0", "0.1", "0.029"),
    ("fcn8", 80): Published("0.1", "0.1", "0.1", "0.136"),
    ("fcn8", 70): Published(fastsa="3.0"),
    ("resnet50", 90): Published("0.1", "0.2", "0.2"),
    ("resnet50", 80): Published("0.3", "0.3", "0.4"),
    ("resnet50", 70): Published(fastsa="0.8"),
    ("unet", 90): Published(fixed_optimum="1.129"),
    ("unet", 80): Published(fixed_optimum="1.984"),
    ("unet", 60): Published(fixed_optimum="4.451"),
    ("unet", 45): Published(fixed_optimum="9.321"),
    ("segnet", 60): Published(fixed_optimum="0.423"),
    ("vgg16", 90): Published(fixed_optimum="1.968"),
    ("mobilenet", 80): Published(fixed_optimum="0.370"),
}


def rounded_like(printed: str, percent: float) -> float:
    """A figure with as many digits as a printed one."""
    return round(percent, len(printed.partition(".")[2]))
