import pytest

from r1lab.module.teacher import Teacher
from tests.model.byte_tokenizer import tokenizer


def test_a_teacher_whose_prompts_begin_otherwise_is_rejected():
    teacher = Teacher("x", None, tokenizer("<bos> $A"))
    teacher.refuse_other_tokens(tokenizer("<bos> $A"))
    teacher.refuse_other_tokens(tokenizer("<bos> $A <eos>"))  # a prompt has no EOS token
    with pytest.raises(ValueError, match=r"module.teacher.name=x adds other special tokens .* \(\[0\], not \[\]\)"):
        teacher.refuse_other_tokens(tokenizer(None))
