"""The demo model: tiny, multimodal, random weights, made on the spot without a network.

`python3 -m proxy.models.demo DIRECTORY` writes an Idefics3 model (0.6 million parameters)
that real vLLM serves on a CPU. It takes text and images and answers with words that mean
nothing. The same recipe gives the same weights, so an answer at temperature 0 is repeatable.
With `--text-only` it writes the language model alone, as a Llama.

Nothing here imports torch or transformers: numpy and tokenizers (both come with vLLM) write
the same files in 0.2 seconds instead of ten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.models.demo_weights import (
    HEADS,
    HIDDEN,
    IMAGE_PIXELS,
    INTERMEDIATE,
    LAYERS,
    PATCH_PIXELS,
    POSITIONS,
    SCALE_FACTOR,
    SEED,
    TOKENS_PER_IMAGE,
    VISION_HEADS,
    VISION_HIDDEN,
    VISION_INTERMEDIATE,
    VISION_LAYERS,
    add_token_biases,
    random_weights,
    text_weights,
    write_safetensors,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEMO_MODEL_NAME = "demo"
DEMO_TEXT_NAME = "demo-text"
BUILT_IN = (DEMO_MODEL_NAME, DEMO_TEXT_NAME)
"""What MODEL_NAME may say without a repository, a folder or a preset."""

RECIPE_VERSION = 1
"""Raise it with any change of what is written: older folders are then made anew."""

MARKER_NAME = "demo-recipe.json"
PAD, START, END, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>"
IMAGE, FAKE, GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"
# The processor asks for the tokens of all 36 tiles, although this model never splits an image.
TILES = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
SPECIAL_TOKENS = [PAD, START, END, STOP, IMAGE, FAKE, GLOBAL, *TILES]
TEXT_VOCABULARY = 640

TRAINING_TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having
nothing to do: once or twice she had peeped into the book her sister was reading, but it had
no pictures or conversations in it, "and what is the use of a book," thought Alice "without
pictures or conversations?" So she was considering in her own mind, as well as she could, for
the hot day made her feel very sleepy and stupid, whether the pleasure of making a daisy-chain
would be worth the trouble of getting up and picking the daisies, when suddenly a White Rabbit
with pink eyes ran close by her. There was nothing so very remarkable in that; nor did Alice
think it so very much out of the way to hear the Rabbit say to itself, "Oh dear! Oh dear! I
shall be late!" But when the Rabbit actually took a watch out of its waistcoat-pocket, and
looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind
that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out
of it, and burning with curiosity, she ran across the field after it, and fortunately was just
in time to see it pop down a large rabbit-hole under the hedge. In another moment down went
Alice after it, never once considering how in the world she was to get out again.
"""  # Lewis Carroll, 1865: public domain

# Plain strings and lists of parts both occur: vLLM hands over what the client sent, with
# every picture as a part of type "image".
CHAT_TEMPLATE = """\
{%- macro show(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content -%}
    {%- for part in content -%}
      {%- if part.type == "image" -%}{{- "<image>" -}}
      {%- elif part.text is defined -%}{{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  {{- "<|im_start|>System: Tools: " -}}{{- tools | tojson -}}{{- "<end_of_utterance>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {{- "<|im_start|>" + message.role | capitalize + ": " + show(message.content) -}}
  {%- if message.tool_calls -%}{{- message.tool_calls | tojson -}}{%- endif -%}
  {{- "<end_of_utterance>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>Assistant:" -}}{%- endif -%}
"""

MODEL_CARD = """\
# demo: RANDOM WEIGHTS

This model was made on this machine by `python3 -m proxy.models.demo`. Its weights are random
numbers: it takes {takes} as a real model does, and what it answers means nothing.
It is there to try the sidecar and vLLM without a GPU and without a download.

Architecture: {architecture}. {parameters:,} parameters, {tokens} tokens, recipe version {recipe},
seed {seed}.
"""


def is_complete(directory: Path) -> bool:
    """Whether `directory` holds a demo model of this recipe."""
    try:
        marker = json.loads((directory / MARKER_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(marker == {"recipe_version": RECIPE_VERSION})


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE: every input can be encoded, frequent words are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    return tokenizer


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json"""
    vocabulary = tokenizer.get_vocab_size()
    ids = {
        "bos_token_id": tokenizer.token_to_id(START),
        "eos_token_id": tokenizer.token_to_id(STOP),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }
    text = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": False,
        **ids,
    }
    vision = {
        "model_type": "idefics3_vision",
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_INTERMEDIATE,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "image_size": IMAGE_PIXELS,
        "patch_size": PATCH_PIXELS,
    }
    return {
        "model_type": "idefics3",
        "architectures": ["Idefics3ForConditionalGeneration"],
        "dtype": "bfloat16",
        "image_token_id": tokenizer.token_to_id(IMAGE),
        "scale_factor": SCALE_FACTOR,
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
        **ids,
    }


def text_only_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the language model alone."""
    text = {"architectures": ["LlamaForCausalLM"], "dtype": config["dtype"]}
    return {**config["text_config"], **text}


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json"""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": POSITIONS,
        "bos_token": START,
        "eos_token": STOP,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {
            "image_token": IMAGE,
            "fake_image_token": FAKE,
            "global_image_tag": GLOBAL,
        },
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json: any image becomes one tile of 56x56 pixels."""
    return {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": IMAGE_PIXELS},
        "max_image_size": {"longest_edge": IMAGE_PIXELS},
        "do_image_splitting": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": True,
        "resample": 1,
    }


def write_model(directory: Path, *, text_only: bool = False) -> None:
    """All files of the model; the marker comes last."""
    tokenizer = build_tokenizer()
    # Its own `save` raises no OSError.
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    config = model_config(tokenizer)
    if text_only:
        config = text_only_config(config)
    stops = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    documents = {
        "config.json": config,
        "generation_config.json": stops,
        "tokenizer_config.json": tokenizer_config(),
    }
    if not text_only:
        documents["preprocessor_config.json"] = preprocessor_config()
        documents["processor_config.json"] = {
            "processor_class": "Idefics3Processor",
            "image_seq_len": TOKENS_PER_IMAGE,
        }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    weights = random_weights(tokenizer.get_vocab_size())
    add_token_biases(weights, tokenizer, config["eos_token_id"])
    if text_only:
        weights = text_weights(weights)
    write_safetensors(weights, directory / "model.safetensors")
    card = MODEL_CARD.format(
        parameters=sum(tensor.size for tensor in weights.values()),
        tokens=tokenizer.get_vocab_size(),
        takes="text" if text_only else "text and images",
        architecture="Llama"
        if text_only
        else f"Idefics3, {TOKENS_PER_IMAGE} tokens per image plus three around them",
        recipe=RECIPE_VERSION,
        seed=SEED,
    )
    (directory / "README.md").write_text(card)
    (directory / MARKER_NAME).write_text(json.dumps({"recipe_version": RECIPE_VERSION}))


def build(directory: Path, *, text_only: bool = False) -> None:
    """Make the model beside `directory` and rename it into place when it is whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{directory.name}.", suffix=".partial", dir=directory.parent
    ) as partial:
        model = Path(partial, DEMO_MODEL_NAME)
        model.mkdir()
        write_model(model, text_only=text_only)
        if (directory / MARKER_NAME).exists():
            shutil.rmtree(directory)  # ours, of an older recipe
        model.rename(directory)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="proxy.models.demo", description="Build the demo model.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--text-only", action="store_true")
    given = parser.parse_args(arguments)
    directory: Path = given.directory.absolute()
    if is_complete(directory):
        print(f"demo model: found (recipe {RECIPE_VERSION}, RANDOM WEIGHTS)", flush=True)
    else:
        print("demo model: building (RANDOM WEIGHTS, its answers mean nothing)", flush=True)
        started = time.monotonic()
        try:
            build(directory, text_only=given.text_only)
        except OSError as error:
            if not is_complete(directory):  # else another process was quicker
                print(f"demo model: cannot write {directory}: {error}", file=sys.stderr)
                return 1
        print(f"demo model: built in {time.monotonic() - started:.1f} s", flush=True)
    print(directory, flush=True)
    return 0


if __name__ == "__main__":
    # As an exception, so that half a model does not stay on the volume.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
