"""What a preset needs, and how long a request may be on a card."""

from __future__ import annotations

import pytest

from proxy.models.fit import Fit, fit, longest_request, needed_gb
from proxy.settings.preset import Preset


def preset(needs: float, weights: float | None = None, **variables: str) -> Preset:
    """With facts where `weights` is given: 100 KiB a token, at most 32,768 of them."""
    own = {"MODEL_NAME": "org/model", **variables}
    if weights is None:
        return Preset("mine", "models.toml", own, needs)
    return Preset("mine", "models.toml", own, needs, (), weights, 100, 32768)


@pytest.mark.parametrize(
    ("weights", "cache_kib", "tokens", "needed"),
    [
        (15.0, 0, 0, 18),  # a fifth more
        (1.0, 0, 0, 3),  # and at least 2 GB
        (10.0, 1000, 10_000, 25),  # 10.24 GB of cache
    ],
)
def test_memory_is_weights_cache_and_a_reserve(
    weights: float, cache_kib: float, tokens: int, needed: int
) -> None:
    assert needed_gb(weights, cache_kib, tokens) == needed


def test_the_longest_request_takes_what_the_weights_leave() -> None:
    one = preset(12, weights=8)
    assert longest_request(one, 9) == 0
    assert longest_request(one, 12) == 19 * 1024  # 2 GB of 100 KiB a token, in steps of 1,024
    assert longest_request(one, 24) == 32768  # what the model can do
    assert longest_request(preset(12), 24) is None


@pytest.mark.parametrize("tokens", [2048, 8192, 18 * 1024, 32768])
def test_what_is_needed_for_a_context_has_room_for_it(tokens: int) -> None:
    longest = longest_request(preset(1, weights=8), needed_gb(8, 100, tokens))
    assert longest is not None
    assert longest >= tokens


@pytest.mark.parametrize(
    ("one", "gpus", "expected"),
    [
        (preset(24, MAX_MODEL_LEN="8192"), [24], Fit(1, 8192)),
        (preset(24, MAX_MODEL_LEN="8k"), [24], Fit(1, 8000)),
        (preset(24, MAX_MODEL_LEN="auto"), [24], Fit(1, None)),
        (preset(24), [23.9], None),
        (preset(40), [24, 24], Fit(2, None, ("TENSOR_PARALLEL_SIZE=2",))),
        (preset(40), [24, 16], None),
        (preset(128, TENSOR_PARALLEL_SIZE="4"), [40] * 4, Fit(4, None)),
        (preset(9, TENSOR_PARALLEL_SIZE="4"), [15], Fit(1, None, ("TENSOR_PARALLEL_SIZE=1",))),
        (preset(12, weights=8, MAX_MODEL_LEN="8192"), [24], Fit(1, 32768)),
        (
            preset(14, weights=8, MAX_MODEL_LEN="32768"),
            [12],
            Fit(1, 19 * 1024, ("MAX_MODEL_LEN=19456",)),
        ),
        (preset(14, weights=8, MAX_MODEL_LEN="32768"), [10.1], None),
    ],
)
def test_the_best_way_on_these_gpus(one: Preset, gpus: list[float], expected: Fit | None) -> None:
    assert fit(one, gpus) == expected
