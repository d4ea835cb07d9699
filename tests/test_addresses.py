"""Addresses of servers: what is understood, and what is refused before anything starts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import load_config
from atts.config.addresses import server_address
from atts.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("http://gpu1:40000", "http://gpu1:40000"),
        ("http://gpu1:40000/", "http://gpu1:40000"),
        ("http://gpu1:40000/v1", "http://gpu1:40000"),
        ("http://gpu1:40000/v1/", "http://gpu1:40000"),
        ("http://gpu1:40000/v1/chat/completions", "http://gpu1:40000"),
        ("http://gpu1:40000/v1/completions", "http://gpu1:40000"),
        ("https://host/served/draft/v1", "https://host/served/draft"),
        ("https://host/served/draft", "https://host/served/draft"),
        ("http://[::1]:40000/v1", "http://[::1]:40000"),
    ],
)
def test_a_route_at_the_end_of_an_address_is_cut_off(written: str, means: str) -> None:
    config = load_config(settings=[f"draft.urls=['{written}']"])
    assert config.draft.urls == (means,)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host:99999", "1 to 65535"),
        ("http://host:port", "1 to 65535"),
        ("http://host:0", "http://HOST:PORT"),
        ("http://::1:40000", "brackets"),
        ("http://[::1:40000", "brackets"),
        ("http://[zz::1]:40000", "brackets"),
        ("http://[v1.a]:40000", "brackets"),
        ("host:40000", "http://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("http://host:1?key=1", "http://HOST:PORT"),
        ("http://ho st:1", "http://HOST:PORT"),
    ],
)
def test_what_is_no_address_is_refused_with_its_key(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"target\.urls\.0: ") as caught:
        load_config(settings=[f"target.urls=['{url}']"])
    assert says in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:secret@host:1", "http://me:secret@[::1", "a:secret@b"])
def test_a_password_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"draft\.urls\.0") as caught:
        load_config(settings=[f"draft.urls=['{url}']"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["::zz", "[::1]", "host/v1", "", "1:2:3"])
def test_a_server_listens_at_no_such_host(host: str) -> None:
    with pytest.raises(ConfigError, match=r"draft\.server\.host"):
        load_config(settings=[f"draft.server.host='{host}'"])


@given(st.text(max_size=40) | st.from_regex(r"https?://[\[\]:.@/\w%-]{0,30}", fullmatch=True))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = server_address(text)
    except ValueError:
        return
    assert address.startswith(("http://", "https://"))
    assert server_address(address) == address
