import pytest
import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RMSNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from r1lab.rollout.norms import fused_norms


def spread(kind, dtype=torch.float32):
    norm = kind(96, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    return norm.to(dtype)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, DeepseekV3RMSNorm, Qwen3RMSNorm])
def test_norms_are_transformers(kind):
    for dtype in (torch.float32, torch.bfloat16):
        norm, x = spread(kind, dtype), torch.randn(5, 7, 96).to(dtype)
        expected = norm(x)
        with fused_norms(torch.nn.Sequential(norm)):
            assert "forward" in norm.__dict__
            found = norm(x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # in bfloat16 too, which rounds alike
        assert found.dtype == dtype and torch.equal(norm(x), expected)


def test_other_norms_are_left_alone():
    norm = spread(GemmaRMSNorm)  # its weights are about 0
    with fused_norms(norm):
        assert "forward" not in norm.__dict__


def test_weights_of_another_dtype_and_autocast():
    norm, x = spread(LlamaRMSNorm), torch.randn(3, 96).bfloat16()
    expected = norm(x)
    with fused_norms(norm):
        assert torch.equal(norm(x), expected) and norm(x).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert norm(x.float()).dtype == torch.float32


def test_a_norm_without_source_is_left_alone():
    made: dict = {"base": torch.nn.Module}
    exec("class Norm(base):\n    def forward(self, x):\n        return x", made)
    with fused_norms(norm := made["Norm"]()):
        assert "forward" not in norm.__dict__


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on a GPU, R1LAB_TEST_GPU=1")
@pytest.mark.parametrize("width", [96, 128])  # of a slice, too, as latent attention's
def test_the_kernel_rounds_as_transformers_does(width):
    norm, x = spread(DeepseekV3RMSNorm, torch.bfloat16).cuda(), torch.randn(999, width).bfloat16().cuda()[:, :96]
    expected = norm(x)
    with fused_norms(norm):
        found = norm(x)
    assert (found != expected).float().mean() < 1e-3  # sums in another order


def test_a_failure_puts_them_back():
    norm = spread(LlamaRMSNorm)
    with pytest.raises(KeyError), fused_norms(norm):
        raise KeyError
    assert "forward" not in norm.__dict__
