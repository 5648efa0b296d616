"""Proof of control and four eyes: who may have a whole site, or very much, taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.home import Home
from flows.stages.removing import proving, requests
from policy.errors import ConfigurationError, InputError, RefusedError
from policy.removal_proofs import TOKEN_PREFIX, WELL_KNOWN_PATH, holds_token, is_within, proof_token, proofs
from tests.curation.loopback import Authority, Server, redirect, response, serving
from tests.flows.name_server import NameServer
from tests.flows.removable import copied, image_url, made_once, refused, said, verdicts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return made_once(tmp_path_factory)


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return copied(made, tmp_path / "home")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(authority: Authority) -> Iterator[Server]:
    with serving({}, tls=authority.context("127.0.0.1")) as server:
        yield server


def settle(home: Home, old: str, new: str) -> Home:
    """The home with another line in custody.toml."""
    text = home.settings_path.read_text("utf-8")
    assert old in text
    home.settings_path.write_text(text.replace(old, new), "utf-8")
    return Home.open(home.path)


@pytest.fixture
def reaching(home: Home, site: Server, authority: Authority) -> Home:
    """A home that may ask the site."""
    home = settle(home, "allow_addresses = []", f'allow_addresses = ["{site.endpoint}"]')
    return settle(home, 'ca_file = ""', f'ca_file = "{authority.path}"')


# ── at the domain itself ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_at_the_domain_proves_it(reaching: Home, site: Server) -> None:
    """What `prove` says is published where it says, among other lines; it is found once, recorded, and suffices."""
    request = said(reaching, "add", "--domain", site.endpoint)
    assert (request["state"], request["needs"]) == ("received", ["proof", "second-approver"])
    told = said(reaching, "prove", request["id"])
    assert told["url"] == site.url(WELL_KNOWN_PATH)
    assert told["dns_name"] == ""
    looked = said(reaching, "prove", request["id"], "--check", "--method", "well-known", code=1)
    assert looked["looks"] == [{"method": "well-known", "outcome": "failed", "detail": "http-404"}]
    site.routes[WELL_KNOWN_PATH] = response(f"other=1\n{told['token']}\n".encode())
    looked = said(reaching, "prove", request["id"], "--check")
    assert (looked["is_proven"], looked["state"], looked["looks"][0]["outcome"]) == (True, "held", "proven")
    with reaching.ledger(readonly=True) as ledger:
        outcomes = [(one.method, one.outcome) for one in proofs(ledger, request["id"])]
    assert outcomes == [("well-known", "asked"), ("dns", "asked"), ("well-known", "failed"), ("well-known", "proven")]
    assert said(reaching, "show", request["id"])["needs"] == ["second-approver"]


def test_somebody_elses_word_proves_nothing(reaching: Home, site: Server, authority: Authority) -> None:
    """A token of another request, one within a word, one behind a redirect to another host, one in a file
    without an end: none counts, and the other host is not even asked.
    """
    mine = requests.add(reaching, "domain", site.endpoint).id
    other = requests.add(reaching, "domain", site.endpoint).id
    token = proof_token(reaching.keys, mine, site.endpoint)

    def look() -> str:
        found = proving.check(reaching, mine, methods=("well-known",))
        assert not found.is_proven
        return found.looks[0].detail

    with serving({WELL_KNOWN_PATH: response(token.encode())}, tls=authority.context("127.0.0.1")) as elsewhere:
        for answer, detail in (
            (response(proof_token(reaching.keys, other, site.endpoint).encode()), "no-token"),
            (response(f"x{token}y".encode()), "no-token"),
            (redirect(elsewhere.url(WELL_KNOWN_PATH)), "other-host"),
            (response(b" " * 20_000 + token.encode()), "too-large"),
        ):
            site.routes[WELL_KNOWN_PATH] = answer
            assert look() == detail
        assert elsewhere.requests == []
    with pytest.raises(RefusedError, match="must prove"):
        approve(reaching, mine, "Ann")


def approve(home: Home, removal: str, by: str) -> str:
    from flows.stages.removing import approving

    return approving.approve(home, removal, by=by).state


# ── in the DNS ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def with_names(home: Home) -> Iterator[Callable[[], tuple[Home, NameServer]]]:
    with NameServer({}) as server:
        yield lambda: (settle(home, 'dns_server = ""', f'dns_server = "{server.address}"'), server)


def test_a_claimant_of_somebody_elses_site_stops_nothing(
    with_names: Callable[[], tuple[Home, NameServer]],
) -> None:
    """Nothing of the site is held until its own DNS has the token; a domain of the claimant's own is no proof of it.
    Then it takes two people, by whatever spelling of their names.
    """
    home, names = with_names()
    request = said(home, "add", "--domain", "Site0.Example.")
    assert len(request["matches"]) == 25
    assert verdicts(home, request["id"]) == {}
    names.records["_custody-removal.evil.example"] = [proof_token(home.keys, request["id"], "evil.example")]
    looked = said(home, "prove", request["id"], "--domain", "evil.example", "--check", "--method", "dns")
    assert (looked["looks"][0]["outcome"], looked["is_proven"], looked["state"]) == ("proven", False, "received")
    assert "must prove" in refused(home, "approve", request["id"], "--by", "Mallory", code=1)
    told = said(home, "prove", request["id"])
    assert told["dns_name"] == "_custody-removal.site0.example"
    failed = said(home, "prove", request["id"], "--check", code=1)
    assert [(one["method"], one["detail"]) for one in failed["looks"]] == [
        ("well-known", "no-contact"),
        ("dns", "no-record"),
    ]
    names.records[told["dns_name"]] = ["v=spf1 -all", told["token"]]
    assert said(home, "prove", request["id"], "--check", "--method", "dns")["is_proven"]
    assert verdicts(home, request["id"]) == {"defer removal-held": 25}
    first = said(home, "approve", request["id"], "--by", "Ann")
    assert (first["state"], first["first_approver"]) == ("awaiting-second", "Ann")
    assert home.tombstones().removals == ()
    assert "takes a second person" in refused(home, "approve", request["id"], "--by", " ANN\u200b ")
    assert verdicts(home, request["id"]) == {"defer removal-held": 25}
    second = said(home, "approve", request["id"], "--by", "Bob")
    assert second["state"] == "approved"
    assert home.tombstones().covers_url("https://www.site0.example/new") == request["id"]
    assert home.tombstones().covers_url("https://site1.example/new") is None


def test_a_name_server_that_cannot_be_asked(home: Home) -> None:
    """Silence is a failed look with a reason; an address that is none is an error of the settings."""
    removal = requests.add(home, "domain", "site0.example").id
    silent = settle(home, 'dns_server = ""', 'dns_server = "127.0.0.1:9"')
    silent = settle(silent, "proof_timeout_s = 15.0", "proof_timeout_s = 0.2")
    [look] = proving.check(silent, removal, methods=("dns",)).looks
    assert (look.outcome, look.detail) in {("failed", "lifetimetimeout"), ("failed", "nonameservers")}
    for wrong in ("name.example", "127.0.0.1:99999", "[::1]:x"):
        broken = settle(silent, 'dns_server = "127.0.0.1:9"', f'dns_server = "{wrong}"')
        with pytest.raises(ConfigurationError, match="dns_server"):
            proving.check(broken, removal, methods=("dns",))
        settle(broken, f'dns_server = "{wrong}"', 'dns_server = "127.0.0.1:9"')


# ── very much ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_more_than_four_eyes_over_samples_take_a_proof_whatever_names_them(home: Home) -> None:
    """Counted anew at each approval; an operator who knows the claimant vouches in their own name, and is on record."""
    policy = home.policy_path.read_text("utf-8").replace("four_eyes_over = 100", "four_eyes_over = 1")
    home.policy_path.write_text(policy, "utf-8")
    home = Home.open(home.path)
    one = requests.add(home, "url", image_url(2))
    assert (one.needs, verdicts(home, one.id)) == ((), {"defer removal-held": 1})
    many = requests.add(home, "creator", "Painter 7")
    assert (many.needs, many.state, verdicts(home, many.id)) == (("proof", "second-approver"), "received", {})
    with pytest.raises(InputError, match="names no domain"):
        proving.instructions(home, many.id)
    assert "--reason" in refused(home, "prove", many.id, "--by", "Op")
    assert said(home, "prove", many.id, "--by", "Op", "--reason", "she showed her passport")["is_proven"]
    assert verdicts(home, many.id) == {"defer removal-held": 2}
    assert approve(home, many.id, "Ann") == "awaiting-second"
    with home.ledger(readonly=True) as ledger:
        [vouched] = [p for p in proofs(ledger, many.id) if p.method == "operator"]
    assert vouched.detail == "Op: she showed her passport"
    assert approve(home, one.id, "Ann") == "approved"


@pytest.mark.parametrize(
    ("place", "domain", "within"),
    [
        ("site.example", "site.example", True),
        ("www.site.example", "site.example", True),
        ("site.example:8443", "site.example", True),
        ("site.example", "site.example:8443", False),
        ("evilsite.example", "site.example", False),
        ("example", "site.example", False),
        ("[::1]", "[::1]", True),
        ("[::1]:8443", "[::1]", True),
    ],
)
def test_what_lies_within_a_domain(place: str, domain: str, within: bool) -> None:
    """The host itself and what is below it; never its parent, or a name that only ends alike."""
    assert is_within(place, domain) is within


def test_tokens(made: Home) -> None:
    """One for each request and domain, that no other key makes; found as a word of its own."""
    tokens = {proof_token(made.keys, removal, domain) for removal in ("r1", "r2") for domain in ("a", "b")}
    assert len(tokens) == 4
    assert all(token.startswith(TOKEN_PREFIX) and len(token) == len(TOKEN_PREFIX) + 64 for token in tokens)
    [token, *_] = tokens
    assert holds_token(f"a\r\n{token}\r\n", token)
    assert not holds_token(f"{token}0", token)
