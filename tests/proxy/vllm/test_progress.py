from __future__ import annotations

import pytest

from proxy.engine.phase import Phase
from proxy.engine.server import Progress
from proxy.vllm.log_lines import clean_lines, parse_line
from proxy.vllm.progress import advance
from tests.proxy.vllm.recording import Recording, recorded, recording


def _phases(start: Recording) -> list[tuple[Phase, float]]:
    """Each phase with the second in which it began."""
    progress = Progress(Phase.CHECKING)
    begun: list[tuple[Phase, float]] = []
    for line, second in zip(start.lines, start.seconds, strict=True):
        for clean in clean_lines(line):
            after = advance(progress, parse_line(clean).message)
            if after.phase is not progress.phase:
                begun.append((after.phase, second))
            progress = after
    return begun


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A1_start_eager", [(Phase.LOADING, 8.6), (Phase.WARMING, 24.9)]),
        (
            "A2_start_compile",
            [(Phase.LOADING, 7.0), (Phase.COMPILING, 20.0), (Phase.WARMING, 48.2)],
        ),
        (
            "A3_start_compile_warmcache",
            [(Phase.LOADING, 6.7), (Phase.COMPILING, 19.3), (Phase.WARMING, 29.2)],
        ),
    ],
)
def test_a_recorded_start_shows_its_phases_in_order(
    name: str, expected: list[tuple[Phase, float]]
) -> None:
    begun = _phases(recording(name))
    assert [phase for phase, _ in begun] == [phase for phase, _ in expected]
    assert [second for _, second in begun] == pytest.approx(
        [second for _, second in expected], abs=0.06
    )


@pytest.mark.parametrize("name", [name for name in recorded("C") if "start" not in name])
def test_nothing_printed_while_serving_moves_the_phase(name: str) -> None:
    begun = _phases(recording(name))
    assert [phase for phase, _ in begun] == [Phase.LOADING, Phase.WARMING]


@pytest.mark.parametrize(
    ("line", "phase", "fraction"),
    [
        # Recorded on CPU.
        ("Loading safetensors checkpoint shards:  40% Completed | 2/5 [0:00<", Phase.LOADING, 0.4),
        ("Warming up model for the compilation...", Phase.COMPILING, None),
        # From the source of vLLM 0.32: seen only with a GPU.
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|███   |", "compiling", 0.4),
        ("Capturing CUDA graphs (decode, FULL): 100%|████| 35/35 [00:02<00:00]", "compiling", 1.0),
        ("Capturing prefill CUDA graphs:   5%|▌  | 1/20 [00:00<00:05]", Phase.COMPILING, 0.05),
        ("Multi-thread loading shards:  25% Completed | 1/4 [00:09<00:27]", Phase.LOADING, 0.25),
        ("[backbone] Dynamo bytecode transform time: 3.92 s", Phase.COMPILING, None),
        ("Model loading took 14.2 GiB memory and 3.101 seconds", Phase.LOADING, None),
        ("INFO:     Application startup complete.", Phase.WARMING, None),
        # Nothing of the kind.
        ('INFO:     1.2.3.4:5 - "GET /Starting vLLM server on HTTP/1.1" 404', None, None),
        ("the model says: Loading safetensors checkpoint shards: 40%", None, None),
        ("model.safetensors:  40%|████      | 2.0G/5.0G [00:10<00:15, 200MB/s]", None, None),
        ("", None, None),
    ],
)
def test_a_line_shows_phase_and_fraction(
    line: str, phase: Phase | None, fraction: float | None
) -> None:
    after = advance(Progress(Phase.CHECKING), parse_line(line).message)
    assert after == Progress(phase or Phase.CHECKING, fraction)


def test_the_fraction_belongs_to_the_phase_it_was_seen_in() -> None:
    loading = advance(
        Progress(Phase.DOWNLOADING, 0.9), "Loading safetensors checkpoint shards:  40% |"
    )
    assert loading == Progress(Phase.LOADING, 0.4)
    assert advance(loading, "Loading weights took 1.0 seconds") == loading
    assert advance(loading, "Starting torch.compile") == Progress(Phase.COMPILING, None)


@pytest.mark.parametrize(
    "phase", [Phase.READY, Phase.DEGRADED, Phase.DRAINING, Phase.FAILED, Phase.STOPPED]
)
def test_output_never_moves_a_phase_that_is_not_part_of_the_start(phase: Phase) -> None:
    assert advance(Progress(phase), "Starting to load model x...") == Progress(phase)


def test_a_phase_never_goes_back() -> None:
    compiling = Progress(Phase.COMPILING, 0.5)
    assert advance(compiling, "Loading drafter model...") == compiling
