"""What a model does to its logits beside the product with its output embeddings, read from its config."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

# Names of a factor in transformers' configs. The models that ignore a name, or divide where others multiply, follow.
_FACTORS = {
    "logits_scaling": -1,  # Granite divides
    "logit_scale": 1,  # Cohere
    "lm_head_multiplier": 1,  # Falcon-H1
    "output_multiplier": 1,  # Muse
    "logits_mup_width_multiplier": -1,  # Inkling divides the hidden states
}
_POWER = {("hyperclovax", "logits_scaling"): 1, ("mpt", "logit_scale"): 0}
_LEAST = 1e-3  # of a factor, and its inverse the largest
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class LogitTransform:
    """logits = cap(scale (hidden head^T + bias))[:rows] with cap(x) = softcap tanh(x / softcap).

    softcap: None for no cap. rows: of the head that are tokens, None for all.
    """

    scale: float = 1.0
    softcap: float | None = None
    rows: int | None = None

    def at_scale_one(self, temperature: float) -> tuple[float, float | None]:
        """Temperature and soft cap that give the same distribution with a scale of 1.

        cap(s x) / T with cap c equals cap(x) / (T / s) with cap c / s.
        """
        return temperature / self.scale, None if self.softcap is None else self.softcap / self.scale


def logit_transform(config: PreTrainedConfig) -> LogitTransform:
    """The transform that a config names. `r1lab.module.head_check` compares it with the model's own logits.

    Raises:
        ValueError: for a factor out of range.
    """
    text = config.get_text_config()
    scale = 1.0
    for name, power in _FACTORS.items():
        power = _POWER.get((text.model_type, name), power)
        value = getattr(text, name, None)
        if value is None or not power:
            continue
        if not _LEAST <= value <= 1 / _LEAST:
            raise ValueError(
                f"the config of this {text.model_type} model has {name}={value}, which must be from {_LEAST:g} to "
                f"{1 / _LEAST:g}: correct its config.json"
            )
        scale *= float(value) ** power
    softcap = next((cap for name in _SOFTCAPS if (cap := getattr(text, name, None)) is not None), None)
    return LogitTransform(scale, softcap, getattr(text, "unpadded_vocab_size", None))
