"""Every supported family of text encoders gives its own states, whatever it is batched with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, MAX_POSITIONS, TEXTS, save_tiny_model

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError

SAMPLES = [{"text": text} for text in TEXTS]
PAIRS = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
# Float32 sums of the same numbers in another order; states are of size 3.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a family, made once per session."""
    root = tmp_path_factory.mktemp("families")

    def make(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else save_tiny_model(folder, family)

    return make


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def states(backbone: Any, samples: list[dict[str, str]]) -> torch.Tensor:
    prepared = backbone.prepare(samples)
    return backbone.run(prepared, range(len(samples))).streams["tokens"].values


def library_run(folder: Path, samples: list[dict[str, str]], **options: Any) -> tuple[Any, Any]:
    """The padded batch as transformers itself runs it: inputs and outputs."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    pairs = [s["text_pair"] for s in samples] if "text_pair" in samples[0] else None
    inputs = tokenizer(
        [s["text"] for s in samples], pairs, padding=True, return_tensors="pt", **options
    )
    with torch.no_grad():
        return inputs, model(**inputs, output_hidden_states=True)


@pytest.mark.parametrize("samples", [SAMPLES, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_library(tiny_model, family, samples) -> None:
    folder = tiny_model(family)

    found = states(load(folder), samples)

    inputs, outputs = library_run(folder, samples)
    real = inputs["attention_mask"].bool()
    expected = torch.stack(outputs.hidden_states, dim=2)[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found[:, -1], outputs.last_hidden_state[real], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_is_the_output_of_the_module_it_names(tiny_model, family) -> None:
    from transformers import AutoModel

    folder = tiny_model(family)
    backbone = load(folder)
    model = AutoModel.from_pretrained(folder)
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update(
            {name: output[0] if isinstance(output, tuple) else output}
        )

    modules = dict(model.named_modules())
    for layer in backbone.streams[0].layers:
        modules[layer.module].register_forward_hook(watch(layer.module))
    prepared = backbone.prepare(SAMPLES)
    ids = torch.from_numpy(prepared.inputs["token_ids"][1].astype(np.int64))[None]
    with torch.no_grad():
        model(ids)

    values = backbone.run(prepared, [1]).streams["tokens"].values
    for position, layer in enumerate(backbone.streams[0].layers):
        torch.testing.assert_close(values[:, position], seen[layer.module][0], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_modernbert_has_a_final_norm_and_only_on_its_last_layer(tiny_model, family) -> None:
    norms = [layer.final_norm for layer in load(tiny_model(family)).streams[0].layers]

    assert norms == ([False, False, False, True] if family == "modernbert" else [None] * 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_feel_the_padding_of_its_batch(tiny_model, family) -> None:
    backbone = load(tiny_model(family))
    prepared = backbone.prepare(SAMPLES)

    batch = backbone.run(prepared, [3, 1, 2, 0]).streams["tokens"]

    starts = batch.layout.first_rows().tolist()
    for position, sample in enumerate([3, 1, 2, 0]):
        alone = backbone.run(prepared, [sample]).streams["tokens"].values
        found = batch.values[
            starts[position] : starts[position] + prepared.lengths["tokens"][sample]
        ]
        torch.testing.assert_close(found, alone, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_as_the_library_cuts_them_and_counted(tiny_model, family) -> None:
    folder = tiny_model(family)
    samples = [
        {"text": TEXTS[0], "text_pair": TEXTS[1] * 9},
        {"text": TEXTS[1] * 9, "text_pair": TEXTS[0] * 9},
        {"text": TEXTS[0], "text_pair": TEXTS[2]},
    ]
    backbone = load(folder)

    prepared = backbone.prepare(samples)

    inputs, outputs = library_run(folder, samples, truncation=True, max_length=MAX_POSITIONS)
    assert prepared.truncated.tolist() == [True, True, False]
    assert prepared.lengths["tokens"].max() == MAX_POSITIONS == backbone.spec.options["max_length"]
    for row, (ids, mask) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ):
        assert prepared.inputs["token_ids"][row].tolist() == ids[mask.bool()].tolist()
    expected = torch.stack(outputs.hidden_states, dim=2)[inputs["attention_mask"].bool()]
    torch.testing.assert_close(states(backbone, samples), expected, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_without_a_limit_takes_the_models(tiny_model, tmp_path, family) -> None:
    """RoBERTa's table of positions is longer than what it takes, by the padding id + 1."""
    folder = shutil.copytree(tiny_model(family), tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    backbone = load(folder)

    assert backbone.spec.options["max_length"] == MAX_POSITIONS
    longest = states(backbone, [{"text": TEXTS[1] * 9}])
    assert longest.shape[0] == MAX_POSITIONS
    assert longest.isfinite().all()


def test_chosen_layers_are_those_of_the_whole_run_and_always_with_the_last(tiny_model) -> None:
    folder = tiny_model("bert")

    chosen = load(folder, layers=(2, 0))

    assert [layer.index for layer in chosen.streams[0].layers] == [0, 2, 3]
    assert torch.equal(states(chosen, SAMPLES), states(load(folder), SAMPLES)[:, [0, 2, 3]])


def test_a_batch_comes_in_the_asked_order_and_precision(tiny_model) -> None:
    backbone = load(tiny_model("bert"), precision="bfloat16", max_length=12)
    prepared = backbone.prepare(SAMPLES)

    batch = backbone.run(prepared, [2, 0])

    assert batch.sample_ids.tolist() == [2, 0]
    assert (
        batch.streams["tokens"].layout.lengths.tolist()
        == prepared.lengths["tokens"][[2, 0]].tolist()
    )
    assert batch.streams["tokens"].values.dtype == torch.bfloat16
    assert prepared.lengths["tokens"].max() == 12


def test_states_can_be_trained_on_and_the_backbone_cannot(tiny_model) -> None:
    """Tensors made in inference mode would fail in backward; those of no_grad do not."""
    backbone = load(tiny_model("bert"))
    head = torch.nn.Linear(16, 1)

    head(states(backbone, SAMPLES)).sum().backward()

    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in backbone._forward.model.parameters())


def test_many_threads_prepare_what_one_does(tiny_model) -> None:
    """A tokenizer shared between threads has its truncation set under their feet."""
    backbone = load(tiny_model("roberta"), max_length=16)
    expected = backbone.prepare(SAMPLES).inputs["token_ids"].values.tolist()

    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(lambda _: backbone.prepare(SAMPLES), range(64)))

    assert all(p.inputs["token_ids"].values.tolist() == expected for p in prepared)


def test_identity_follows_every_setting_and_file_but_not_the_folder(tiny_model, tmp_path) -> None:
    folder = tiny_model("bert")
    identity = load(folder).identity
    copy, weights, words = (tmp_path / name for name in ("copy", "weights", "words"))
    shutil.copytree(folder, copy)
    shutil.copytree(folder, weights)
    tensors = load_file(weights / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] += 1
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    shutil.copytree(folder, words)
    settings = json.loads((words / "tokenizer_config.json").read_text())
    (words / "tokenizer_config.json").write_text(json.dumps({**settings, "note": 1}))

    def changed(**choices: Any) -> set[str]:
        name = choices.pop("folder", folder)
        other = load(name, **choices).identity
        return {key for key in identity if identity[key] != other[key]}

    assert changed(folder=copy) == set()
    assert changed(folder=weights) == {"weights"}
    assert changed(folder=words) == {"tokenizer"}
    assert changed(max_length=20) == {"max_length"}
    assert changed(precision="bfloat16") == {"precision"}
    assert changed(layers=(1,)) == {"layers", "final_norms"}


def test_a_manifest_says_all_that_is_needed_to_load_it_again(tiny_model) -> None:
    first = load(tiny_model("electra"), layers=(1,), max_length=20, precision="bfloat16")

    again = load_backbone(BackboneConfig.from_spec(first.spec), "cpu")

    assert again.identity == first.identity
    assert again.spec.options == first.spec.options
    assert torch.equal(states(again, SAMPLES), states(first, SAMPLES))


def test_loading_is_silent(tiny_model, capfd) -> None:
    load(tiny_model("bert"))

    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_checkpoint_of_another_head_gives_the_encoders_states(tiny_model, tmp_path) -> None:
    from transformers import AutoModel, AutoTokenizer, BertForMaskedLM

    folder = tiny_model("bert")
    headed = BertForMaskedLM(AutoModel.from_pretrained(folder).config)
    headed.bert.load_state_dict(AutoModel.from_pretrained(folder).state_dict(), strict=False)
    headed.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)

    torch.testing.assert_close(states(load(tmp_path), SAMPLES), states(load(folder), SAMPLES))


def test_weights_in_several_files_are_one_model(tiny_model, tmp_path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_model("bert")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="10KB")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()

    assert torch.equal(states(load(tmp_path), SAMPLES), states(load(folder), SAMPLES))


def test_weights_that_would_be_random_are_refused(tiny_model, tmp_path) -> None:
    """transformers only warns: the states of such a model are noise."""
    shutil.copytree(tiny_model("bert"), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})

    with pytest.raises(UnsupportedBackboneError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load(tmp_path / "model")


def test_code_that_comes_with_a_model_runs_only_when_asked(
    tiny_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = shutil.copytree(tiny_model("bert"), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModel": "own_model.OwnModel"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own_model.py").write_text(
        "from transformers import BertModel\n\n\nclass OwnModel(BertModel):\n    pass\n"
    )

    assert load(folder).spec.architecture == "BertModel"
    trusted = load(folder, trust_remote_code=True)
    assert trusted.spec.architecture == "OwnModel"
    assert trusted.identity["code"] is not None
    assert torch.equal(states(trusted, SAMPLES), states(load(folder), SAMPLES))


def test_a_cut_off_weights_file_is_named(tiny_model, tmp_path) -> None:
    shutil.copytree(tiny_model("bert"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])

    with pytest.raises(UnsupportedBackboneError, match="Check that its files are complete"):
        load(tmp_path / "model")


def test_a_family_that_is_not_supported_names_those_that_are(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    (tmp_path / "model.safetensors").touch()

    with pytest.raises(UnsupportedBackboneError, match=r"'sam', needed one of .*bert"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"layers": (1, 7)}, r"layers \[7\] .* it has 0 .* to 3"),
        ({"max_length": 1000}, r"max length is 1000, needed 5 to 64"),
        ({"max_length": 2}, r"max length is 2, needed 5 to 64"),
    ],
)
def test_a_setting_that_does_not_fit_says_what_would(tiny_model, choices, words) -> None:
    with pytest.raises(BackboneError, match=words):
        load(tiny_model("bert"), **choices)


def test_a_device_that_is_not_there_is_refused(tiny_model) -> None:
    with pytest.raises(BackboneError, match=r"--device cuda:77: not usable here"):
        load_backbone(BackboneConfig(name=str(tiny_model("bert"))), "cuda:77")


@pytest.mark.parametrize(
    "samples",
    [
        [{"text": "a"}, {"text": None}],
        [{"text": "a"}, {"text": "b", "text_pair": "c"}],
        [{"text": "a", "text_pair": "b"}, {"text": "c"}],
    ],
)
def test_samples_that_do_not_match_are_named_by_their_place(tiny_model, samples) -> None:
    with pytest.raises(BackboneError, match="sample 1: "):
        load(tiny_model("bert")).prepare(samples)
