"""Mixed precision on a CPU."""

from __future__ import annotations

import torch
from monai.inferers import SimpleInferer
from torch import nn

from common.inferers.bfloat16_on_cpu import BFloat16OnCPU


def test_convolutions_run_in_bfloat16_and_the_result_is_float32() -> None:
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 3))
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    image = torch.randn(2, 1, 7, 6, 8)
    with torch.no_grad():
        plain, rounded = network(image), BFloat16OnCPU(SimpleInferer())(image, network)
    assert seen == [torch.float32, torch.bfloat16]
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, plain)
    assert (rounded - plain).abs().max() < 0.02 * plain.abs().max()  # 8 bits of mantissa: 2 ** -8 per rounding
    assert not torch.is_autocast_enabled("cpu")


def test_elsewhere_nothing_changes() -> None:
    states: list[bool] = []

    def network(x: torch.Tensor, scale: float) -> torch.Tensor:
        states.append(torch.is_autocast_enabled("cpu"))
        return scale * x

    found = BFloat16OnCPU(SimpleInferer())(torch.zeros(1, 1, 2, 2, device="meta"), network, 2.0)
    assert found.device.type == "meta" and states == [False]
