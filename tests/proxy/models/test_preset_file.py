"""A file of presets: what may stand in it, and the message where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.models.preset_file import read_presets

WHOLE = """
[mine]
repository = "org/model"
revision = "v1"
served_names = ["mine", "gpt-4o"]
gpu_memory_gb = 24.5
sources = ["https://example.com"]
[mine.engine]
MAX_MODEL_LEN = 8192
GPU_MEMORY_UTIL = 0.8
TRUST_REMOTE_CODE = true
DTYPE = "bfloat16"
MM_PROCESSOR_KWARGS = {max_pixels = 1003520}
MIDDLEWARE = ["a.b", "c.d"]

[short]
repository = "/models/short"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def complaint(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(SettingsError) as raised:
        read_presets(file)
    message = str(raised.value)
    assert message.startswith(f"MODELS_FILE={str(file)!r}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_preset_is_variables_as_an_environment_has_them(file: Path, encoding: str) -> None:
    file.write_text(WHOLE, encoding)
    mine, short = read_presets(file).values()
    assert mine.variables == {
        "MODEL_NAME": "org/model",
        "MODEL_REVISION": "v1",
        "SERVED_MODEL_NAME": "mine,gpt-4o",
        "MAX_MODEL_LEN": "8192",
        "GPU_MEMORY_UTIL": "0.8",
        "TRUST_REMOTE_CODE": "true",
        "DTYPE": "bfloat16",
        "MM_PROCESSOR_KWARGS": '{"max_pixels": 1003520}',
        "MIDDLEWARE": "a.b,c.d",
    }
    assert (mine.gpu_memory_gb, mine.sources) == (24.5, ("https://example.com",))
    assert short.variables["SERVED_MODEL_NAME"] == "short,/models/short"
    assert short.gpu_memory_gb is None


def test_facts_of_a_model_say_what_memory_it_needs(file: Path) -> None:
    facts = "weights_gb = 15\ncache_kib = 100\nmax_context = 100000\n"
    file.write_text(
        f"[whole]\nrepository = 'a/b'\n{facts}"
        f"[short]\nrepository = 'a/b'\n{facts}[short.engine]\nMAX_MODEL_LEN = 10000\n"
        f"[word]\nrepository = 'a/b'\n{facts}[word.engine]\nMAX_MODEL_LEN = '10k'\n"
        f"[own]\nrepository = 'a/b'\n{facts}gpu_memory_gb = 99\n"
    )
    needs = {name: preset.gpu_memory_gb for name, preset in read_presets(file).items()}
    assert needs == {"whole": 31, "short": 20, "word": 20, "own": 99}


BAD = [
    ("x = [", "no TOML"),
    ("mine = 1", "[mine] is no table"),
    ("[Mine]\nrepository = 'a/b'", "[Mine] cannot be a name; allowed are a-z, 0-9"),
    ("['a/b']\nrepository = 'a/b'", "cannot be a name"),
    ("[demo]\nrepository = 'a/b'", "not demo"),
    ("[mine]\nrepo = 'a/b'", "repo is no key; allowed are repository, revision,"),
    ("[mine]\nrevison = 'a'", "Did you mean revision?"),
    ("[mine]\nrevision = 'a'", "[mine] has no repository; allowed is one as organisation/name"),
    ("[mine]\nrepository = ''", "repository='': allowed is a text"),
    ("[mine]\nrepository = 'a/b'\nserved_names = ['x,y']", "is a list of texts without a comma"),
    ("[mine]\nrepository = 'a/b'\nsources = [1]", "sources=[1]: allowed is a list of texts"),
    ("[mine]\nrepository = 'a/b'\nsleep = 'level2'", "sleep='level2': allowed is \"off\" or"),
    ("[mine]\nrepository = 'a/b'\ngpu_memory_gb = 0", "allowed is a number of GB above 0"),
    ("[mine]\nrepository = 'a/b'\ngpu_memory_gb = true", "allowed is a number of GB above 0"),
    ("[mine]\nrepository = 'a/b'\ngpus = [0, 0]", "gpus=[0, 0]: allowed is each GPU once"),
    ("[mine]\nrepository = 'a/b'\nengine = 3", "engine=3: allowed is a table of variables"),
    ("[mine]\nrepository = 'a/b'\nweights_gb = -1", "allowed is a number of GB above 0"),
    ("[mine]\nrepository = 'a/b'\ncache_kib = 'x'", "allowed is a number of KiB, or 0"),
    ("[mine]\nrepository = 'a/b'\nmax_context = 0.5", "allowed is a number of tokens above 0"),
    ("[mine-1.5]\nrepository = 'a/b'", 'A name with a dot stands in quotes: ["mine-1.5"].'),
    ("[mine]\nrepository = 'a/b'\n[mine.engin]\nSEED = 1", "Did you mean engine?"),
    ("x = " + "[" * 3000, "is nested too deeply"),
]
BAD_ENGINE = [
    ("MAX_MODEL_LEN = 'lots'", "engine.MAX_MODEL_LEN='lots': "),
    ("IMAGE_LIMIT = -1", "greater than or equal to 0"),
    ("TRUST_REMOTE_CODE = 'maybe'", "true, 1, yes, on"),
    ("MAX_MODEL_LEN = ''", "engine.MAX_MODEL_LEN='': allowed is a text, number"),
    ("DTYPE = 2026-11-21", "allowed is a text, number, boolean, list or table"),
    ("MM_PROCESSOR_KWARGS = {a = 2026-11-21}", "allowed is a text, number, boolean, list or table"),
    ("RUNNER = 'walk'", "engine.RUNNER='walk': allowed are auto, draft"),
    ("ENFORCE_EAGER = 'maybe'", "(vLLM's --enforce-eager)"),
    ("MAX_MODLE_LEN = 1", "no variable of the engine; allowed are the engine's variables"),
    ("max-model-len = 1", "Did you mean MAX_MODEL_LEN?"),
    ("PORT = 1", "engine.PORT is no variable of the engine"),
    ("API_KEYS = 'a'", "engine.API_KEYS is no variable of the engine"),
    ("HF_TOKEN = 'hf_x'", "engine.HF_TOKEN is no variable of the engine"),
    ("LIMIT_MM_PER_PROMPT = {image = 1}", "allowed are IMAGE_LIMIT, VIDEO_LIMIT and AUDIO_LIMIT"),
    ("VLLM_EXTRA_ARGS = '--seed 1'", "allowed is each flag by its own name"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_file_is_reported_with_the_place_and_what_is_allowed(
    file: Path, text: str, message: str
) -> None:
    assert message in complaint(file, text)


@pytest.mark.parametrize(("line", "message"), BAD_ENGINE)
def test_a_bad_variable_is_reported_with_its_preset(file: Path, line: str, message: str) -> None:
    whole = complaint(file, f"[mine]\nrepository = 'a/b'\n[mine.engine]\n{line}\n")
    assert "[mine] engine." in whole
    assert message in whole


def test_a_file_that_is_not_there_or_no_text_is_reported(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "no such file")):
        with pytest.raises(SettingsError, match=message):
            read_presets(path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="no TOML"):
        read_presets(binary)
