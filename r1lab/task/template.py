"""Prompt templates: from a question to the text that the policy continues."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """`text` with `{question}` in it."""

    text: str

    def __post_init__(self):
        if "{question}" not in self.text:
            raise ValueError(f"template.text must contain {{question}}, got {self.text!r}")

    def __call__(self, question: str) -> str:
        return self.text.replace("{question}", question)
