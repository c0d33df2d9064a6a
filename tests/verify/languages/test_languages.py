"""The programs of docs/verify-in-other-languages.md pass good tokens of a running Kiwi ID, and refuse each bad one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.verify.languages.programs import FORMS, LANGUAGES, PAGE, PROGRAMS, Language, Outcome, Program, section
from tests.verify.languages.tokens import ALGORITHMS, AUDIENCE, FORGED, OF_RSA, WRONG, Issued, Issuers

# The ordinary suite leaves out what could differ from the rest by a fault of the library only.
THOROUGH = bool(os.environ.get("KIWI_TEST_LANGUAGES"))
FORGED_FOR = ALGORITHMS if THOROUGH else ALGORITHMS[:1]
CLAIMS_IN = PROGRAMS if THOROUGH else PROGRAMS[:: len(FORMS)]  # the claims are checked by the same file in both forms


class Service:
    """A program as a service runs it, with the keys in the form that it takes."""

    def __init__(self, program: Program, issuers: Issuers, key_set: Path) -> None:
        self.program, self.issuers, self.key_set = program, issuers, key_set

    def given(self, token: str, issued: Issued, issuer: str | None = None, audience: str = AUDIENCE) -> Outcome:
        """Run the program on a token."""
        keys = issued.pem if self.program.form == "PEM file" else self.key_set
        return self.program.run(token, keys, issued.issuer if issuer is None else issuer, audience)

    def assert_refused(self, token: str, issued: Issued) -> None:
        """The token gets exit status 1, words, and nothing on standard output."""
        outcome = self.given(token, issued)
        assert (outcome.status, outcome.out) == (1, ""), outcome
        assert re.fullmatch(r"refused: .+\n", outcome.err, re.DOTALL), outcome


@pytest.fixture
def service(program: Program, issuers: Issuers, key_set: Path) -> Service:
    """Each program, with its keys."""
    return Service(program, issuers, key_set)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_access_tokens_pass(service: Service, alg: str) -> None:
    """A real access token passes, of each kind of key, and the subject is printed; one for several services passes, too."""
    issued = service.issuers[alg]
    for token in (issued.access, issued.signed(), issued.signed(aud=["another", AUDIENCE])):
        assert service.given(token, issued) == Outcome(0, f"{issued.claims['sub']}\n", "")


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("alg", FORGED_FOR)
def test_forgeries(service: Service, alg: str, name: str) -> None:
    """What the issuer's key did not sign, with this key's algorithm, is refused."""
    issued = service.issuers[alg]
    service.assert_refused(FORGED[name](issued), issued)


@pytest.mark.parametrize("name", OF_RSA)
def test_the_algorithm_is_the_keys(service: Service, name: str) -> None:
    """A signature by the right key with another algorithm of RSA is refused."""
    issued = service.issuers["RS256"]
    service.assert_refused(OF_RSA[name](issued), issued)


@pytest.mark.parametrize("program", CLAIMS_IN, indirect=True)
@pytest.mark.parametrize("name", WRONG)
def test_tokens_of_the_issuer_that_are_not_for_this(service: Service, name: str) -> None:
    """What the issuer signed, and is no access token for this service at this time, is refused."""
    issued = service.issuers["RS256"]
    service.assert_refused(WRONG[name](issued), issued)


@pytest.mark.parametrize("program", CLAIMS_IN, indirect=True)
def test_settings_left_empty_let_nobody_in(service: Service) -> None:
    """A service whose issuer or audience is empty, a variable that nobody set say, takes no token at all."""
    issued = service.issuers["RS256"]
    for settings in ({"issuer": ""}, {"audience": ""}):
        for token in (issued.access, issued.signed(iss="", aud=""), issued.signed(iss=..., aud=...)):
            outcome = service.given(token, issued, **settings)
            assert outcome.status != 0, (settings, outcome)
            assert outcome.out == ""


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_the_page_is_complete(language: Language) -> None:
    """Each language has a program, keys in both forms, commands that run it, and versions that are pinned; needs no toolchain."""
    found = section(language)
    forms = [form for _, form in found.files if form]
    assert sorted(forms) == sorted(FORMS)
    assert any(not form for _, form in found.files)
    manifests = [code for (name, _), code in found.files.items() if name in ("Cargo.toml", "pom.xml", "package.json")]
    assert re.search(r"""[@="]v?\d+\.\d+\.\d+\b|<version>\d+\.\d+\.\d+</version>""", "\n".join([*found.commands, *manifests]))
    assert f"KIWI_TEST_LANGUAGES={','.join(each.name for each in LANGUAGES)}" in PAGE.read_text()
