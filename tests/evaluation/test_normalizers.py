from __future__ import annotations

import subprocess
import sys

import pytest

from mome.errors import MomeError
from mome.evaluation.normalizers import normalizer


@pytest.mark.parametrize(
    ("text", "lower", "whisper"),
    [
        ("Bin BLUE  at F two, now.", "bin blue at f two, now.", "bin blue at f 2 now"),
        ("Um, I won't", "um, i won't", "i will not"),
        ("[laughs] the colour (red)", "[laughs] the colour (red)", "the color"),
        ("two hundred and one dollars", "two hundred and one dollars", "$201"),
        ("the cause", "the cause", "the cause"),
        ("Mr. Café", "mr. café", "mister cafe"),
        ("", "", ""),
        ("Hmm.", "hmm.", ""),
    ],
)
def test_forms(text, lower, whisper):
    assert normalizer("lower")(text) == lower
    assert " ".join(normalizer("whisper")(text).split()) == whisper


@pytest.mark.parametrize("text", ["9" * 5000, "1" + "0" * 5000 + " dollars"])
def test_numbers_of_any_length(text):
    with pytest.raises(MomeError, match="number too long"):
        normalizer("whisper")(text)


def test_lower_case_needs_nothing_heavy():
    code = (
        "import sys; sys.argv = ['mome']\n"
        "from mome.evaluation.normalizers import normalizer\n"
        "normalizer('lower')('A')\n"
        "print([name for name in ('transformers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
