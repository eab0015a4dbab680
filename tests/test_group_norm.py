"""The group norm of channels_last images: Triton's gives PyTorch's result, on a GPU or run by Triton's interpreter."""

import os

import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("n", "c", "h", "w"), [(2, 40, 24, 8), (1, 80, 3, 5), (3, 320, 9, 16)])
def test_fused_norm_equals_pytorchs(n: int, c: int, h: int, w: int, silu: bool) -> None:
    pytest.importorskip("triton", reason="PyTorch for a GPU brings Triton, PyTorch for a CPU does not")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("without a GPU Triton's interpreter is needed: TRITON_INTERPRET=1, set before PyTorch is imported")
    from followyourpose.models.fused_norm import fused_norm

    device = "cpu" if interpreted else "cuda"
    norm = torch.nn.GroupNorm(4, c, device=device).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(n, c, h, w, device=device) + 100  # a mean far above the deviation
    expected = norm(x)
    got = fused_norm(x.to(memory_format=torch.channels_last), 4, norm.weight, norm.bias, norm.eps, silu)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, F.silu(expected) if silu else expected, rtol=1e-3, atol=1e-3)
