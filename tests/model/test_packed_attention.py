from pathlib import Path

import pytest
import torch
import yaml
from transformers.masking_utils import causal_mask_function

from r1lab.model import packed_attention
from r1lab.model.attention import use_attention
from r1lab.model.packed_attention import mask_of, packing
from r1lab.model.policy import new_policy
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate

CONF = Path(__file__).parents[2] / "conf/model"
MLA = yaml.safe_load((CONF / "tiny_untrained.yaml").read_text())["policy"]["config"]
SHAPES = {
    "deepseek_v3": MLA,
    "unequal_heads": MLA | {"qk_nope_head_dim": 20, "v_head_dim": 20},
    "llama": yaml.safe_load((CONF / "tiny_student_small.yaml").read_text())["policy"]["config"]
    | {"num_key_value_heads": 2},
}
PROMPTS = [[7, 20, 30, 40, 50], [9], [11, 12, 13, 14, 15, 16, 17], [18, 19]]
COMPLETIONS = [[21, 22, 23, 24, 1], [25], [26, 27, 28, 29, 31, 32, 33, 1], [34, 1]]


def outcome(model, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs [B,T], and the gradient of a weighted sum of them."""
    model.zero_grad()
    batch = collate(PROMPTS, COMPLETIONS, 0, packed=packed).to(model.device)
    logprobs, _ = completion_logprobs(model, batch, temperature=1.0)
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs).to(logprobs)).sum().backward()
    return logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_is_padded_without_the_padding(shape, attention):
    model = new_policy(SHAPES[shape], seed=0, attention=attention)
    (padded, gradient), (packed, packed_gradient) = (outcome(model, packed) for packed in (False, True))
    torch.testing.assert_close(packed, padded, rtol=0, atol=2e-6)
    assert gradient.norm() > 1
    assert (packed_gradient - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
@pytest.mark.parametrize("shape", ["deepseek_v3", "llama"])
def test_a_sequence_sees_nothing_of_its_neighbours(shape, attention):
    model = new_policy(SHAPES[shape], seed=0, attention=attention)

    def logprobs(poison: int | None) -> torch.Tensor:
        rows = [[60] * len(prompt) if row == poison else prompt for row, prompt in enumerate(PROMPTS)]
        with torch.no_grad():
            return completion_logprobs(model, collate(rows, COMPLETIONS, 0, packed=True), temperature=1.0)[0]

    clean, poisoned = logprobs(None), logprobs(2)
    others = [0, 1, 3]
    torch.testing.assert_close(poisoned[others], clean[others], rtol=0, atol=1e-6)
    assert (poisoned[2] - clean[2]).abs().max() > 1e-3


@pytest.mark.slow
def test_flex_sees_the_same():
    """Forward and not compiled: on a CPU it has no backward."""
    model = new_policy(SHAPES["deepseek_v3"], seed=0, attention="varlen")
    batch = collate(PROMPTS, COMPLETIONS, 0, packed=True)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected, _ = completion_logprobs(model, batch, temperature=1.0)
        model.config._attn_implementation = "flex"
        found, _ = completion_logprobs(model, batch, temperature=1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["varlen", "flex"])
def test_padded_rows_and_sampling_are_sdpa_to_the_bit(name):
    """Rows side by side; and, as the engines call it, a cache, padding on the left, and positions of their own."""
    model = new_policy(SHAPES["deepseek_v3"], seed=0)
    ids = torch.tensor([[0, 0, 7, 20, 30], [9, 11, 12, 13, 14]])
    mask = (ids > 0).long()

    def logits(attention: str) -> list[torch.Tensor]:
        model.config._attn_implementation = attention
        with torch.no_grad():
            batch = collate(PROMPTS, COMPLETIONS, 0)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            first = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
            further = {"attention_mask": torch.cat([mask, mask[:, -1:]], 1), "position_ids": positions[:, -1:] + 1}
            second = model(input_ids=ids[:, -1:], past_key_values=first.past_key_values, use_cache=True, **further)
            return [completion_logprobs(model, batch, temperature=1.0)[0], first.logits, second.logits]

    assert all(torch.equal(a, b) for a, b in zip(logits(name), logits("sdpa"), strict=True))


def test_varlen_makes_no_mask_of_the_whole_row(monkeypatch):
    monkeypatch.setattr(packed_attention, "sdpa_mask", None)
    model = new_policy(SHAPES["llama"], seed=0, attention="varlen")
    completion_logprobs(model, collate(PROMPTS, COMPLETIONS, 0, packed=True), temperature=1.0)


def test_a_model_that_asks_for_a_mask_of_one_sequence_gets_a_tensor():
    """Doge computes with the mask in its layers."""
    asked = {"batch_size": 1, "q_length": 4, "kv_length": 4, "device": torch.device("cpu")}
    mask = mask_of("varlen", mask_function=causal_mask_function, allow_is_causal_skip=False, **asked)
    assert torch.equal(mask[0, 0], torch.ones(4, 4, dtype=torch.bool).tril())


def test_packing():
    packed = packing(torch.tensor([0, 2, 3, 6]))
    assert packed.starts.tolist() == [0, 2, 3, 6] and packed.starts.dtype == torch.int32
    assert packed.longest == 3
    # Apart they are rows of three.
    assert packed.places.tolist() == [0, 1, 3, 6, 7, 8]


def test_the_kernel_is_called_with_one_width_and_as_many_heads(monkeypatch):
    """What torch's kernel is given, by a definition in its place: it runs on a GPU alone."""
    seen = {}

    def definition(q, k, v, starts, starts_k, longest, longest_k, *, scale, window_size):
        seen.update(shapes=[x.shape for x in (q, k, v)], longest=longest, window_size=window_size)
        assert torch.equal(starts, starts_k) and longest == longest_k
        out = torch.zeros_like(v)
        for begin, end in zip(starts[:-1], starts[1:], strict=True):
            one = (x[begin:end].transpose(0, 1) for x in (q, k, v))
            out[begin:end] = torch.nn.functional.scaled_dot_product_attention(
                *one, scale=scale, is_causal=True
            ).transpose(0, 1)
        return out

    for shape, heads, width in (("unequal_heads", 4, 40), ("llama", 4, 16)):
        model = new_policy(SHAPES[shape], seed=0, attention="varlen")
        with torch.no_grad():
            batch = collate(PROMPTS, COMPLETIONS, 0, packed=True)
            expected, _ = completion_logprobs(model, batch, temperature=1.0)
            with monkeypatch.context() as patch:
                patch.setattr(packed_attention, "varlen_attn", definition)
                patch.setattr(packed_attention, "_kernel_takes", lambda *_: True)
                found, _ = completion_logprobs(model, batch, temperature=1.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        assert seen["shapes"] == [(batch.input_ids.shape[1], heads, width)] * 3
        assert (seen["longest"], seen["window_size"]) == (15, (-1, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on a GPU, R1LAB_TEST_GPU=1")
@pytest.mark.parametrize("attention", ["varlen", "flex"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_err_no_more_than_sdpa_does(shape, attention):
    """In bfloat16, against float32: logprobs and gradients of packed rows."""
    model = new_policy(SHAPES[shape], seed=0, attention="sdpa")
    exact = outcome(model, False)
    model = model.to("cuda", torch.bfloat16)
    cuda = [x.cpu().float() for x in outcome(model, False)]
    use_attention(model, attention)
    found = [x.cpu().float() for x in outcome(model, True)]
    for right, plain, packed in zip(exact, cuda, found, strict=True):
        assert (packed - right).norm() <= 2 * (plain - right).norm() + 1e-3 * right.norm()


@pytest.mark.parametrize(
    "name, packed, allowed", [("varlen", False, False), ("varlen", True, False), ("sdpa", False, True)]
)
def test_cudnn_which_plans_for_every_shape_is_left_out(monkeypatch, name, packed, allowed):
    seen = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, **kwargs):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return sdpa(*args, **kwargs)

    model = new_policy(SHAPES["llama"], seed=0, attention=name)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    outcome(model, packed)
    assert seen and set(seen) == {allowed}
    assert torch.backends.cuda.cudnn_sdp_enabled()  # as it was
