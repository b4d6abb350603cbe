from __future__ import annotations

import pytest

from samcancer.serve.settings import (
    SHORTEST_TOKEN,
    ServeSettings,
    is_loopback,
    parse_duration_s,
    token_for,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30min", 30 * 60), ("1.5 h", 90 * 60), (" 2h ", 7200)]
)
def test_durations_are_read_in_seconds_minutes_and_hours(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "-1min", "30 days", "1h30min"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration\. Write it like 30min, 2h or 45s\."):
        parse_duration_s(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_loopback_addresses_need_no_token(host: str) -> None:
    assert is_loopback(host)
    assert token_for(host, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "hospital.example", "localhost."])
def test_any_other_address_gets_a_token_that_is_new_each_time(host: str) -> None:
    assert not is_loopback(host)
    tokens = {token_for(host, None), token_for(host, ""), token_for(host, "")}
    assert len(tokens) == 3
    assert all(token is not None and len(token) >= SHORTEST_TOKEN for token in tokens)


def test_a_token_without_text_is_made_on_loopback_too() -> None:
    assert len(token_for("127.0.0.1", "") or "") >= SHORTEST_TOKEN


def test_short_tokens_and_such_as_break_an_address_are_refused() -> None:
    with pytest.raises(ValueError, match="--token has 15 characters"):
        token_for("0.0.0.0", "a" * (SHORTEST_TOKEN - 1))
    with pytest.raises(ValueError, match="letters, digits"):
        token_for("0.0.0.0", "a&b" * SHORTEST_TOKEN)
    assert token_for("0.0.0.0", "a" * SHORTEST_TOKEN) == "a" * SHORTEST_TOKEN


def test_limits_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="--max-upload must be above 0"):
        ServeSettings(max_upload_bytes=0)
    with pytest.raises(ValueError, match="--keep must be above 0"):
        ServeSettings(keep_s=0.0)


def test_a_network_without_a_token_cannot_be_configured() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        ServeSettings(host="0.0.0.0")
