"""The TLS pin: which files it takes, and that a bad one leaves the last good one in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiwi_id.errors import ConfigError
from kiwi_id.instance.certs import make_loopback
from kiwi_id.kanidm.pin import UpstreamPin

BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("content", ["", "junk", f"{BEGIN}AAAA{END}", f"{BEGIN}AAA{END}", f"{BEGIN}not base64 at all!{END}"])
def test_a_broken_chain_is_refused_in_words(tmp_path: Path, content: str) -> None:
    """Whatever is wrong with the file, the error names it, and the pin stays as it was."""
    chain, broken = tmp_path / "chain.pem", tmp_path / "broken.pem"
    make_loopback(chain, tmp_path / "key.pem")
    broken.write_text(content)
    pin = UpstreamPin(chain)
    context = pin.context
    with pytest.raises(ConfigError) as refused:
        pin.reload(broken)
    assert [problem.where for problem in refused.value.problems] == [str(broken)]
    assert pin.context is context
    with pytest.raises(ConfigError):
        UpstreamPin(broken)
