"""Hold out a share of the subjects of a datalist; MONAI's ``partition_dataset`` shuffles images, and anew when one is added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from common.errors import UserError

PARTS = ("training", "validation")


def draw_validation(
    subjects: Iterable[str], share: float = 0.05, seed: int = 0, where: str = "list", known: Mapping[str, str] | None = None
) -> set[str]:
    """Subjects that validate.

    Subjects are ordered by a digest of seed and name, and the first ones validate: a subject that is added later hardly moves the others,
    and lists of the same subjects hold out the same ones.

    Args:
        subjects: names, in any order and any number of times.
        share: of the subjects, in [0, 1); above 0 at least one validates and at least one is trained on.
        seed: of the order.
        where: file or folder, for errors.
        known: part (``training`` or ``validation``) of subjects that are in other lists already; they stay there and count.

    Raises:
        UserError: a share out of range, or too few subjects.
    """
    names = sorted(set(subjects))
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise UserError(f"validation: got {share}; expected a share of the subjects from 0 to below 1, e.g. 0.05 for 5 %.")
    fixed = {name: part for name, part in (known or {}).items() if name in set(names)}
    held_out = {name for name, part in fixed.items() if part == "validation"}
    if share == 0:
        return held_out
    if len(names) < 2:
        raise UserError(
            f"{where}: {len(names)} subject ({', '.join(names)}), of which a share of {share:g} cannot validate; set validation to 0, or"
            " say how subjects are told apart (subject)."
        )
    free = sorted((name for name in names if name not in fixed), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    count = min(len(names) - 1, max(1, round(share * len(names)))) - len(held_out)
    return held_out | set(free[: max(0, count)])
