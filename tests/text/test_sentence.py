from __future__ import annotations

import os

import pytest

from mome.errors import MomeError
from mome.text.sentence import read_sentence

LRS2 = "Text:  BIN BLUE AT F TWO NOW\nConf:  4\n"
LRS2_PRETRAIN = (
    "Text:  BIN BLUE {NS} AT F TWO{LG}NOW\nConf:  5\n\nWORD START END ASDSCORE\n"
    "BIN 0.52 0.80 7.1\nBLUE 0.80 1.04 -6.9\n{NS} 1.04 1.1 nan\nAT 1.1 1.16 5e-1\n"
)
LRS3 = (
    "Text:  BIN BLUE AT F TWO NOW\nConf:  5\nRef:  00j9bKdiOjk\n\nFRAME \tX \tY \tW \tH \n"
    "000090 \t0.414 \t0.192 \t0.151 \t0.269 \n000091 \t0.414 \t0.192 \t0.151 \t0.269 \n\n"
    "WORD START END ASDSCORE\nBIN 0.52 0.80 7.1\nNOW 1.70 2.10 7.7\n"
)


@pytest.fixture
def sentence(tmp_path):
    def read(content: str | bytes, name: str = "clip1.txt") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_sentence(path)

    return read


@pytest.mark.parametrize("annotation", [LRS2, LRS2_PRETRAIN, LRS3, f"\n\n{LRS3}\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_annotations_of_lrs(sentence, annotation, newline):
    said = annotation.replace("\n", newline)
    assert sentence(said) == "bin blue at f two now"
    assert sentence(b"\xef\xbb\xbf" + said.encode()) == "bin blue at f two now"


def test_variants_of_the_annotation(sentence):
    assert sentence("text: bin blue\nconf: 4\n\nword start end\nbin 0 1\n") == "bin blue"
    assert sentence("TEXT:BIN\nCONF:1") == "bin"
    assert sentence("Text: ÉTÉ {LAUGH} DON'T") == "été don't"
    assert sentence("Text:  \nConf:  0\n") == ""
    assert sentence("Text: {NS}\nConf: 3\n") == ""


@pytest.mark.parametrize(
    ("plain", "text"),
    [
        ("Hello,\n  world\n", "Hello, world"),
        ("bin\tblue  at\r\nf two now", "bin blue at f two now"),
        ("\ufeffhello\n", "hello"),
        ("", ""),
        (" \n\n", ""),
        ('"Hello," she said.', '"Hello," she said.'),
        ('"Hello"', '"Hello"'),
        ("[laughs] it is 3.5 to 4.5 degrees, from 10 20 times", "[laughs] it is 3.5 to 4.5 degrees, from 10 20 times"),
        ("at 10:30 on 9/11, 1914-1918", "at 10:30 on 9/11, 1914-1918"),
        ("24-7 and 2019/2020", "24-7 and 2019/2020"),
        ("AT&T; R&B", "AT&T; R&B"),
        ("I said: yes", "I said: yes"),
        ("word started endings", "word started endings"),
        ("the text: hello", "the text: hello"),
        ("{NS} HELLO {LG}", "HELLO"),
        ("one, two,\nthree, four", "one, two, three, four"),
        ("i <3 you", "i <3 you"),
        ("so x = y", "so x = y"),
        ("two plus two = four\nand so on", "two plus two = four and so on"),
        ("meet at 10:30:00 tomorrow", "meet at 10:30:00 tomorrow"),
        ("from 10:30:00 to 11:30:00", "from 10:30:00 to 11:30:00"),
        ("555-123-4567 is my number", "555-123-4567 is my number"),
        ("2020-01-02 was a day", "2020-01-02 was a day"),
        ("covid_19 is bad", "covid_19 is bad"),
        ("the price rose from 1.5 2.5 percent", "the price rose from 1.5 2.5 percent"),
        ("1.5, 2.5 or 3.5 percent", "1.5, 2.5 or 3.5 percent"),
        ("Tom &amp; Jerry don&#39;t", "Tom & Jerry don't"),
        ("<laughs> hello", "<laughs> hello"),
        ("[laughs]", "[laughs]"),
        ("\u200bhel\u00adlo\u200f wor\ufeffld\u202c", "hello world"),
        ("été — “naïve” 中文", "été — “naïve” 中文"),
    ],
)
def test_plain_text_is_what_it_is(sentence, plain, text):
    assert sentence(plain) == text


def test_a_name_may_be_a_word_of_the_sentence(sentence):
    assert sentence("hello world", "hello.txt") == "hello world"
    assert sentence("clip1", "clip1.txt") == "clip1"


@pytest.mark.parametrize(
    ("foreign", "kind"),
    [
        ('{"text": "hello"}', "JSON"),
        ('[{"word": "hello", "start": 0.1}]', "JSON"),
        ('{"text": "hello"}\n{"text": "world"}\n', "JSON"),
        ('{\n  "text": "hel', "JSON"),
        ("1\n00:00:00,000 --> 00:00:01,000\nhello\n", "subtitles"),
        ("WEBVTT\n\nhello", "subtitles"),
        ("0:00:00.000,0:00:01.000\nhello\n", "subtitles"),
        ("[00:12.00]hello\n", "subtitles"),
        ("<html><body>hello</body></html>", "markup"),
        ('<?xml version="1.0"?>\n<tt>hello</tt>', "markup"),
        ("{\\rtf1 hello}", "RTF"),
        ("%PDF-1.4 hello", "PDF"),
        ('File type = "ooTextFile"\nxmin = 0\n', "TextGrid"),
        ("0 11000 sil\n11000 23000 bin\n", "table"),
        ("bin 0 11000\nblue 11000 23000\n", "table"),
        ("0.00\t0.52\tbin\n", "times"),
        ("clip 1 0.52 0.28 BIN\n", "times"),
        ("clip;1;0.52;0.28;BIN\n", "times"),
        ("id,text\nclip1,hello there\n", "table"),
        ("id\ttext\nclip1\thello there\n", "table"),
        ("text;start\nhello;0\n", "table"),
        ("anna: hello\nbert: hi\n", "table"),
        ("clip1 HELLO THERE", "ids"),
        ("s1_bbaf2n BIN BLUE AT F TWO NOW", "ids"),
        ("1089-134686-0000 HE HOPED", "ids"),
        ("talk00/00001 BIN BLUE", "ids"),
        ("0\t1.5\thello", "table"),
        ("default\t\t0\t1.5\thello", "table"),
        ("clip\thello world", "table"),
        ("#!MLF!#\nhello\n", "HTK"),
        ("From: a@b.c\nTo: d@e.f\nSubject: hi\n\nhello", "mail"),
        ("From: a@b.c To: d@e.f Subject: hi", "mail"),
        ("[clip]\ntext = hello\nspeaker=anna\n", "settings"),
        ("00:00:01 hello\n00:00:02 there\n", "table"),
        ("clip_1 hello\nclip_2 there\n", "table"),
        ("bin,0.52,0.80\n", "times"),
        ("<p>hello<br/>there", "markup"),
        ("Text: A B Conf: 4 WORD START END A 0 1", "line 'Text:'"),
        ("Text: A B WORD START END A 0 1", "line 'Text:'"),
        ("Conf:  4\n", "without its line 'Text:'"),
        ("WORD START END ASDSCORE\nBIN 1 2 3\n", "without its line 'Text:'"),
        ("Text: BIN\nBLUE AT\n", "BLUE AT"),
        ("Text: BIN\nConf: 4\nBIN 0.52 0.80\n", "BIN 0.52"),
        ("Text: BIN\nSpeaker: 4\n", "Speaker: 4"),
        ("Text: BIN\nConf: 4\n\nText: BLUE\nConf: 4\n", "2 lines 'Text:'"),
        ("Text: BIN {NS BLUE\nConf: 4\n", "brace"),
        ("bin } blue", "brace"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "binary"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        ("hello".encode("utf-16"), "UTF-8"),
        ("hello".encode("utf-16-le"), "binary"),
        ("été".encode("latin-1"), "UTF-8"),
        (b"a" * (1 << 21), "larger than 1 MB"),
    ],
)
def test_other_formats_are_refused_by_name(sentence, foreign, kind):
    with pytest.raises(MomeError, match=kind) as caught:
        sentence(foreign)
    assert "clip1.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sentence(tmp_path / "missing.txt")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("folder.txt", "pipe.txt"):
        with pytest.raises(MomeError, match=name):
            read_sentence(tmp_path / name)
    with pytest.raises(MomeError, match="too long"):
        read_sentence(tmp_path / f"{'a' * 300}.txt")
