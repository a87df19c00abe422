import pytest
import torch

from r1lab.model import attention
from r1lab.model.attention import check_attention, head_sizes, packed_arguments, use_attention
from r1lab.model.policy import load_policy, new_policy
from tests.model.test_packed_attention import SHAPES

V3_HEADS = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


@pytest.fixture
def gpu(monkeypatch):
    """gpu(major, *installed): a machine with a GPU of that compute capability and these packages."""

    def machine(major: int, *installed: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, 0))
        flash = {
            name: (package, lambda package=package: package in installed, least)
            for name, (package, _, least) in attention.FLASH.items()
        }
        monkeypatch.setattr(attention, "FLASH", flash)

    return machine


def chosen(monkeypatch, model) -> str:
    """What `auto` is for a model."""
    picked = []
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: picked.append(name))
    use_attention(model, "auto")
    return picked[0]


@pytest.fixture
def half():
    """half(**config): a tiny MLA model in bfloat16."""
    return lambda **config: new_policy(SHAPES["deepseek_v3"] | config, seed=0).bfloat16()


def test_on_a_cpu_auto_is_varlen_and_none_is_the_models_own():
    assert new_policy(SHAPES["deepseek_v3"], seed=0, attention="auto").config._attn_implementation == "varlen"
    assert new_policy(SHAPES["deepseek_v3"], seed=0).config._attn_implementation == "sdpa"
    assert load_policy("tiny", dtype="float32", attention="auto").config._attn_implementation == "varlen"


def test_a_model_without_sdpa_keeps_its_own(monkeypatch):
    model = new_policy(SHAPES["llama"], seed=0, attention="eager")
    monkeypatch.setattr(type(model), "_supports_sdpa", False)
    use_attention(model, "auto")
    assert model.config._attn_implementation == "eager"
    for name in ("sdpa", "varlen"):
        with pytest.raises(ValueError, match=f"model.attention={name}: LlamaForCausalLM does not have it"):
            use_attention(model, name)


@pytest.mark.parametrize(
    "major, installed, heads, expected",
    [
        (9, (), {}, "varlen"),
        (9, ("flash-attn",), {}, "flash_attention_2"),
        (9, ("flash-attn", "flash-attn-4"), {}, "flash_attention_4"),
        (8, ("flash-attn", "flash-attn-4"), {}, "flash_attention_2"),
        (7, ("flash-attn",), {}, "varlen"),
        (9, ("flash-attn-4",), V3_HEADS, "flash_attention_4"),
        # Values padded to 192 are more than it takes on Blackwell.
        (10, ("flash-attn-4",), V3_HEADS, "varlen"),
        (10, ("flash-attn-4", "flash-attn"), V3_HEADS, "flash_attention_2"),
        (9, ("flash-attn",), {"v_head_dim": 264}, "varlen"),
    ],
)
def test_auto_takes_what_is_installed_and_fits_the_heads(major, installed, heads, expected, gpu, half, monkeypatch):
    gpu(major, *installed)
    assert chosen(monkeypatch, half(**heads)) == expected


def test_auto_takes_no_flash_attention_over_float32(gpu, monkeypatch):
    gpu(9, "flash-attn")
    assert chosen(monkeypatch, new_policy(SHAPES["deepseek_v3"], seed=0)) == "varlen"


def test_what_a_machine_lacks_is_told_before_anything_is_loaded(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"model.attention='flash' is not one of auto, sdpa, eager, flash_attention_2"):
        load_policy("./nowhere", dtype="bfloat16", attention="flash")
    for name in ("flash_attention_2", "flash_attention_4", "flex"):
        with pytest.raises(ValueError, match=f"model.attention={name}: it needs a CUDA GPU.*set model.attention=auto"):
            load_policy("./nowhere", dtype="bfloat16", attention=name)
    gpu(8, "flash-attn-4")
    with pytest.raises(ImportError, match="package is not installed; pip install flash-attn, or"):
        check_attention("flash_attention_2", torch.bfloat16)
    with pytest.raises(ValueError, match="capability 9.0"):
        check_attention("flash_attention_4", torch.bfloat16)
    gpu(9, "flash-attn", "flash-attn-4")
    with pytest.raises(ValueError, match="half precision, not float32; set model.attention=auto"):
        check_attention("flash_attention_2", torch.float32)
    for name in (None, "auto", "sdpa", "eager", "varlen", "flex"):
        check_attention(name, torch.float32)


def test_heads_that_are_too_wide_are_told(gpu, half):
    gpu(9, "flash-attn")
    with pytest.raises(ValueError, match="does not take heads of width 264"):
        use_attention(half(v_head_dim=264), "flash_attention_2")


def test_heads_that_are_too_narrow_are_told(gpu, half):
    gpu(9)
    with pytest.raises(ValueError, match="model.attention=flex: it does not take heads of width 12, below 16"):
        use_attention(half(v_head_dim=12), "flex")


def test_head_sizes():
    assert head_sizes(new_policy(SHAPES["unequal_heads"], seed=0).config) == (36, 20)
    assert head_sizes(new_policy(SHAPES["llama"], seed=0).config) == (16, 16)


def test_flash_attention_is_told_where_sequences_begin():
    config = new_policy(SHAPES["llama"], seed=0).config
    places = torch.tensor([[0, 1, 2, 0, 0, 1]])
    assert packed_arguments(config, None) == {}
    assert set(packed_arguments(config, places)) == {"position_ids"}
    config._attn_implementation = "flash_attention_2"
    told = packed_arguments(config, places)
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert told["max_length_q"] == told["max_length_k"] == 3 and isinstance(told["max_length_q"], int)
