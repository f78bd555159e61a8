"""The model card of a converted AV-HuBERT encoder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mome.convert.account import Account

SOURCE = "https://github.com/facebookresearch/av_hubert"
LICENSE_LINK = f"{SOURCE}/blob/main/LICENSE"
LICENSE = f"Meta's AV-HuBERT licence, non-commercial research only ({LICENSE_LINK})"
NOTICE = f"""Checkpoints of AV-HuBERT that Meta published come under Meta's [AV-HuBERT licence]({LICENSE_LINK}).
It allows non-commercial research only, and forbids, among other things, military use, surveillance and biometric
processing. Whoever passes these weights on must add a copy of that licence and keep this notice:

> AV-HuBERT is licensed under the AV-HuBERT license, Copyright (c) Meta Platforms, Inc. All Rights Reserved.
"""

_CARD = """---
license: other
license_name: av-hubert-license
license_link: {license_link}
tags: [av-hubert, lip-reading, audio-visual-speech-recognition]
---
# {title}

The encoder of `{file}`, an AV-HuBERT checkpoint of fairseq, converted by `mome convert av-hubert`. It makes 25 tokens a
second of mouth crops, of sound, or of both.

{account}

## Use

```python
from mome.encoders.avhubert import AVHubertModel

model = AVHubertModel.from_pretrained("this-folder").eval()  # float32; dtype="float16" for half the memory
```

or, in a recipe of `mome train`, `model.video_encoder: this-folder`.

## Source

- File: `{file}`, SHA-256 `{digest}`
- Published at <{source}>
- Shi, Hsu, Lakhotia and Mohamed, "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster
  Prediction", ICLR 2022

## Licence

{notice}"""


def card(checkpoint: Path, account: Account) -> str:
    """The text of README.md for the encoder of ``checkpoint``."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _CARD.format(
        title=account.model.split(":")[0] + " encoder",
        file=checkpoint.name,
        account="\n".join(f"- {line}" for line in account.lines()),
        digest=digest,
        source=SOURCE,
        license_link=LICENSE_LINK,
        notice=NOTICE,
    )
