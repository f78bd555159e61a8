from __future__ import annotations

import pytest

from mome import Rates, RateSet
from mome.serving.request import Options, Refusal, parse

RATES = RateSet((4, 16), (2, 5))
ORDER = tuple(RATES.rates())


def read(default: str = "", rate_set: RateSet = RATES, **fields: str | list[str]) -> Options:
    values = {"model": ["m"]} | {k: v if isinstance(v, list) else [v] for k, v in fields.items()}
    return parse(values, ["m", "whisper-1"], rate_set, default, ORDER)


def test_rates():
    assert read().rates == (Rates(4, 2),)
    assert read(rates="16,-").rates == (Rates(16, None),)
    assert read(rates="16,5", task="vsr").rates == (Rates(None, 5),)
    assert read(task="asr").rates == (Rates(4, None),)
    assert read(rates="auto").rates == (Rates(4, 2), Rates(4, 5), Rates(16, 2), Rates(16, 5))
    assert read(rates="auto", task="vsr").rates == (Rates(None, 2), Rates(None, 5))
    assert read("auto").rates == read(rates="auto").rates
    assert read("16,5").rates == (Rates(16, 5),)
    assert read("16,5", task="asr").rates == (Rates(16, None),)
    assert read("auto", rates="4,5").rates == (Rates(4, 5),)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"rates": "3,2"}, "rates", "not in this model's rate set"),
        ({"rates": "many"}, "rates", "not readable"),
        ({"rates": "4,-", "task": "vsr"}, "rates", "lack a rate"),
        ({"task": "sing"}, "task", "choose from"),
        ({"beams": "0"}, "beams", "give 1 to"),
        ({"beams": "9" * 5000}, "beams", "give 1 to"),
        ({"beams": "²"}, "beams", "give 1 to"),
        ({"response_format": "diarized_json"}, "response_format", "choose from"),
        ({"stream": "perhaps"}, "stream", "true or false"),
        ({"stream": "true", "response_format": "srt"}, "stream", "leave one out"),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            "timestamp_granularities[]",
            "word",
        ),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]", "verbose_json"),
        ({"temperature": "nan"}, "temperature", "give a number"),
        ({"ratez": "4,2"}, "ratez", "unknown"),
        ({"rates": ["4,2", "16,5"]}, "rates", "2 times"),
    ],
)
def test_what_is_wrong(fields, field, message):
    with pytest.raises(Refusal, match=message) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.field) == (400, field)


def test_models():
    with pytest.raises(Refusal) as caught:
        read(model="../../etc")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(Refusal) as caught:
        parse({}, ["m"], RATES, "", ORDER)
    assert caught.value.status == 400
    assert read(model="whisper-1").format == "json"


def test_what_is_accepted_and_not_used_is_said():
    options = read(language="en", temperature="0", prompt="x", include=["logprobs"])
    assert options.unused == ("language", "prompt", "temperature", "include[]")


def test_words_are_found_where_the_format_has_them():
    assert not read().words
    assert read(response_format="srt").words
    assert read(response_format="verbose_json").granularities == ("segment",)
    assert read(response_format="verbose_json", timestamp_granularities=["word"]).granularities == ("word",)


def test_fields_of_openais_client_that_change_nothing():
    given = {
        "chunking_strategy[type]": "server_vad",
        "chunking_strategy[threshold]": "0.5",
        "known_speaker_names[]": ["a", "b"],
        "include": "logprobs",
    }
    assert read(**given).unused == ("chunking_strategy", "include[]", "known_speaker_names[]")
    for name in ("rates[fine]", "[type]", "file[]"):
        with pytest.raises(Refusal, match="is unknown"):
            read(**{name: "1"})
