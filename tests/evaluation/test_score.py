from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mome.data.manifests import read_references
from mome.errors import MomeError, listed
from mome.evaluation.result import Condition, ExternalCondition, Hypothesis, Result, to_csv
from mome.evaluation.score import read_transcripts, score
from mome.rates import Rates
from mome.text.wer import bootstrap_interval
from tests.text.test_wer import distance


def test_what_is_written_is_read(tmp_path):
    texts = {"a": 'bin, blue "at" f', "b": "", "ç": "été\nnow"}
    hypotheses = [Hypothesis(name, "said, so", text) for name, text in texts.items()]
    conditions = [Condition(Rates(4, 2)), Condition(Rates(4, 2), -2.5), Condition(Rates(None, 5), 0.0)]
    path = tmp_path / "ours.csv"
    path.write_text(to_csv([Result.of(condition, hypotheses, 0) for condition in conditions]), encoding="utf-8")
    assert read_transcripts(path) == {
        ExternalCondition("ours", condition.task, condition.rates, condition.snr_db): texts for condition in conditions
    }


def test_spreadsheets_and_other_ways_to_write_the_same(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_bytes("\ufeffid, text ,snr_db,note\r\na, bin blue,clean,x\r\n\r\nb,red,,y\r\na,bin,0,\r\n".encode())
    assert read_transcripts(path) == {
        ExternalCondition("theirs"): {"a": "bin blue", "b": "red"},
        ExternalCondition("theirs", snr_db=0.0): {"a": "bin"},
    }


def test_figures_against_a_slow_reference(tmp_path):
    rng = np.random.default_rng(1)
    said, recognised = (
        {f"c{i}": " ".join(rng.choice(list("abcd"), rng.integers(1, 9))) for i in range(20)} for _ in "rh"
    )
    for name, texts in (("said", said), ("recognised", recognised)):
        lines = ["id,text", *(f"{clip},{text}" for clip, text in texts.items())]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    wrong = [distance(said[clip].split(), recognised[clip].split()) for clip in said]
    words = [len(text.split()) for text in said.values()]
    for seed in (0, 5):
        (result,) = score(tmp_path / "recognised.csv", tmp_path / "said.csv", seed=seed)
        assert result.wer == sum(wrong) / sum(words)
        assert result.ci95 == bootstrap_interval(wrong, words, seed)


def test_a_condition_that_lacks_a_clip_is_named(tmp_path):
    (tmp_path / "said.csv").write_text("id,text\na,bin\nb,blue\n")
    path = tmp_path / "two.csv"
    path.write_text("id,system,task,text\na,one,asr,bin\nb,one,asr,blue\na,other,vsr,bin\n")
    with pytest.raises(MomeError, match=r"two\.csv has no transcript of 1 of 2 clips for other vsr: b;"):
        score(path, tmp_path / "said.csv")


def test_references_need_no_media_and_keep_their_order(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,path,split,text\nz,gone.mp4,test,one\na,gone.mp4,test,two\nb,gone.mp4,train,three\n")
    chosen, known = read_references(path, "test")
    assert list(chosen.items()) == [("z", "one"), ("a", "two")]
    assert known == {"z", "a", "b"}


@pytest.mark.parametrize(("count", "text"), [(1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more")])
def test_long_lists_are_cut(count, text):
    assert listed(range(count), most=3) == text


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(MomeError, match=str(path)):
            read_transcripts(Path(path))
