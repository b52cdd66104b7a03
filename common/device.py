"""The device that a user names on a command line."""

from __future__ import annotations

from common.errors import UserError


def check_device(device: str) -> str:
    """Name of a device that is there.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises:
        UserError: another text, or a GPU that torch does not see.
    """
    import torch

    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (number and not number.isdecimal()) or device.endswith(":")):
        raise UserError(f"--device: got '{device}', expected cpu, cuda or cuda:<number>.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        reason = "" if count else f" (torch {torch.__version__}; a CPU build of torch sees none)"
        raise UserError(f"--device: got '{device}', but torch sees {count} GPUs{reason}. Use --device cpu, or check nvidia-smi and torch.")
    return device
