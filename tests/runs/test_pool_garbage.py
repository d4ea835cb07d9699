"""The collector's settings are those of a run only while it goes on."""

import gc

import pytest

from atts.runs.pool import SELDOM, collected_seldom


def test_the_settings_come_back_also_after_an_error() -> None:
    def fail() -> None:
        with collected_seldom():
            assert gc.get_threshold() == SELDOM
            raise KeyError

    before = gc.get_threshold()
    with pytest.raises(KeyError):
        fail()
    assert gc.get_threshold() == before != SELDOM
