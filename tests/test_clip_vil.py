"""CLIP-ViL gives the numbers of BERT's own layers over those of CLIP's ResNet as timm has it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_clip_vil
from torch import Tensor

from extractor import BackboneConfig, convert_checkpoint, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError
from extractor.backbones.clip_vil import ClipViL, ClipViLConfig
from extractor.backbones.clip_vil.inputs import LetterboxRecipe
from extractor.media import draw_view

# Float32 sums in another order; the states are of size 1 to 5.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VISUAL = "bert.encoder.visual_model.visual."


def picture(seed: int, size: tuple[int, int]) -> bytes:
    """A smooth random photo as PNG bytes; size is width and height."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


WIDE, TALL, LONG = picture(0, (90, 70)), picture(1, (50, 60)), picture(2, (200, 45))
# By hand: (height, width) in the frame, and the frame.
PLACED = {
    WIDE: ((64, 82), (64, 96)),
    TALL: ((76, 64), (96, 64)),
    LONG: ((22, 97), (64, 96)),
}
SAMPLES: list[dict[str, Any]] = [
    {"id": 0, "view": 0, "image": WIDE, "text": "Is the old bridge gone?"},
    {"id": 1, "view": 0, "image": TALL, "text": "Once"},
    {
        "id": 2,
        "view": 0,
        "image": WIDE,
        "text": "What does the network say about the signed forms?",
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP-ViL."""
    return save_tiny_clip_vil(tmp_path_factory.mktemp("clip-vil"))


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]]) -> Any:
    return backbone.run(backbone.prepare(samples), range(len(samples))).streams["tokens"]


def rows(stream: Any, sample: int) -> Tensor:
    start = int(stream.layout.first_rows()[sample])
    part: Tensor = stream.values[start : start + int(stream.layout.lengths[sample])]
    return part


def library_pixels(source: bytes) -> Tensor:
    """An image in its frame, by torchvision."""
    from torchvision.transforms import functional

    size, (height, width) = PLACED[source]
    image = functional.resize(Image.open(io.BytesIO(source)).convert("RGB"), list(size))
    across, down = width - image.width, height - image.height
    left, top = -(-across // 2), -(-down // 2)
    image = functional.pad(image, [left, top, across - left, down - top])
    return functional.normalize(functional.to_tensor(image), list(MEAN), list(STD))


def library_resnet(state: dict[str, Tensor]) -> Any:
    """timm's CLIP ResNet of the tiny sizes, filled by timm's own renaming of OpenAI's names."""
    from timm.models import byobnet

    blocks = tuple(
        byobnet.ByoBlockCfg(type="bottle", d=depth, c=width, s=stride, br=0.25)
        for depth, width, stride in ((1, 32, 1), (2, 64, 2), (1, 128, 2), (1, 256, 2))
    )
    cfg = byobnet.ByoModelCfg(
        blocks=blocks, stem_chs=(4, 4, 8), stem_type="", stem_pool="avg2", downsample="avg",
        aa_layer="avg",
    )  # fmt: skip
    model = byobnet.ByobNet(cfg, num_classes=0).eval()
    visual = {
        name.replace(VISUAL, "visual."): value
        for name, value in state.items()
        if name.startswith(VISUAL)
    }
    report = model.load_state_dict(byobnet._convert_openai_clip(visual, model), strict=False)
    assert not report.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in report.missing_keys)
    return model


@torch.no_grad()
def library_states(folder: Path, samples: list[dict[str, Any]]) -> list[Tensor]:
    """Per sample (rows, 4, 16), padded between text and image as the authors pad."""
    from transformers import BertConfig, BertModel, BertTokenizer

    sizes, state = json.loads((folder / "config.json").read_text()), {}
    state = load_file(folder / "model.safetensors")
    config = BertConfig(
        vocab_size=sizes["vocab_size"], hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=sizes["max_position_embeddings"],
    )  # fmt: skip
    config._attn_implementation = "eager"
    bert = BertModel(config, add_pooling_layer=False).eval()
    own = {name.removeprefix("bert."): value for name, value in state.items()}
    report = bert.load_state_dict(own, strict=False)
    assert not report.missing_keys

    resnet = library_resnet(state)
    encoder, seen = "bert.encoder.", []
    for sample in samples:
        grid = resnet.forward_features(library_pixels(sample["image"])[None])[0]
        height, width = grid.shape[1:]
        first = state[f"{encoder}visual_pos.x_position_embedding.weight"][:height, None]
        second = state[f"{encoder}visual_pos.y_position_embedding.weight"][None, :width]
        places = (grid.permute(1, 2, 0) + first + second).flatten(0, 1)
        wide = places @ state[f"{encoder}visn_fc.visn_fc.weight"].T
        seen.append(
            torch.nn.functional.layer_norm(
                wide + state[f"{encoder}visn_fc.visn_fc.bias"],
                (16,),
                state[f"{encoder}visn_fc.visn_layer_norm.weight"],
                state[f"{encoder}visn_fc.visn_layer_norm.bias"],
                1e-12,
            )
        )
    tokens = BertTokenizer.from_pretrained(folder)(
        [sample["text"] for sample in samples], padding="max_length", max_length=20,
        truncation=True, return_tensors="pt",
    )  # fmt: skip
    joint = torch.cat([bert.embeddings(tokens.input_ids), torch.stack(seen)], dim=1)
    real = torch.cat([tokens.attention_mask.bool(), torch.ones(len(seen), 6, dtype=bool)], dim=1)
    mask = (1.0 - real[:, None, None].float()) * -10000.0
    states = [joint]
    for layer in bert.encoder.layer:
        output = layer(states[-1], mask)
        states.append(output[0] if isinstance(output, tuple) else output)
    return [torch.stack(states, dim=2)[at, real[at]] for at in range(len(samples))]


def test_states_are_those_of_bert_over_clips_resnet(folder: Path) -> None:
    stream = run(load(folder), SAMPLES)

    for sample, expected in enumerate(library_states(folder, SAMPLES)):
        torch.testing.assert_close(rows(stream, sample), expected, **CLOSE)


@pytest.mark.parametrize("source", [WIDE, TALL, LONG], ids=["wide", "tall", "long"])
def test_images_are_placed_in_their_frame_as_the_authors_do(source: bytes) -> None:
    pixels = LetterboxRecipe(64, 96).pixels({"id": 0, "view": 0}, source)

    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    found = (torch.from_numpy(pixels) / 255 - mean) / std
    torch.testing.assert_close(found, library_pixels(source), rtol=0, atol=1e-5)


def test_layers_are_the_input_and_every_block(folder: Path) -> None:
    backbone = load(folder)
    modules = dict(backbone._network.named_modules())
    seen: dict[str, Tensor] = {}
    for layer in backbone.streams[0].layers:
        path, _, is_input = layer.module.partition(":")
        if is_input:
            modules[path].register_forward_pre_hook(
                lambda module, args, name=layer.module: seen.update({name: args[0]})
            )
        else:
            modules[path].register_forward_hook(
                lambda module, args, output, name=layer.module: seen.update({name: output})
            )

    values = run(backbone, SAMPLES[:1]).values

    for position, layer in enumerate(backbone.streams[0].layers):
        torch.testing.assert_close(values[:, position], seen[layer.module][0], **CLOSE)
    assert [layer.index for layer in backbone.streams[0].layers] == [0, 1, 2, 3]
    assert {layer.final_norm for layer in backbone.streams[0].layers} == {None}


def test_chosen_layers_are_those_of_the_whole_run(folder: Path) -> None:
    few = run(load(folder, layers=(1,)), SAMPLES)

    assert torch.equal(few.values, run(load(folder), SAMPLES).values[:, [1, 3]])


def test_a_sample_does_not_feel_its_batch(folder: Path) -> None:
    backbone = load(folder)
    prepared = backbone.prepare(SAMPLES)

    stream = backbone.run(prepared, [2, 0, 1]).streams["tokens"]

    for position, sample in enumerate([2, 0, 1]):
        alone = backbone.run(prepared, [sample]).streams["tokens"].values
        torch.testing.assert_close(rows(stream, position), alone, **CLOSE)


def test_rows_are_the_texts_tokens_and_then_the_images_places(folder: Path) -> None:
    backbone = load(folder)

    prepared, measured = backbone.prepare(SAMPLES), backbone.measure(SAMPLES)

    tokens = prepared.inputs["token_ids"].lengths
    assert prepared.lengths["tokens"].tolist() == (tokens + 6).tolist()
    assert measured.lengths["tokens"].tolist() == prepared.lengths["tokens"].tolist()
    assert measured.input_bytes == prepared.inputs["token_ids"].values.nbytes
    words = backbone._network.bert.embeddings(
        torch.from_numpy(prepared.inputs["token_ids"][0].astype(np.int64))[None]
    )
    found = rows(run(backbone, SAMPLES), 0)[: tokens[0], 0]
    torch.testing.assert_close(found, words[0].detach(), **CLOSE)


def test_texts_are_cut_at_twenty_tokens_as_the_authors_cut_them(folder: Path) -> None:
    sample = {**SAMPLES[0], "text": "the old bridge was gone by morning " * 5}

    prepared = load(folder).prepare([sample, SAMPLES[1]])

    assert prepared.inputs["token_ids"].lengths[0] == 20
    assert prepared.truncated.tolist() == [True, False]


def test_an_image_with_several_questions_is_read_and_convolved_once(folder: Path) -> None:
    backbone = load(folder)
    sizes: list[int] = []
    backbone._network.bert.encoder.visual_model["visual"].register_forward_hook(
        lambda module, args, output: sizes.append(len(args[0]))
    )

    prepared = backbone.prepare(SAMPLES)
    backbone.run(prepared, [0, 1, 2])

    assert len(prepared.inputs["pixels"]) == 2
    assert sizes == [1, 1]


def test_unreadable_images_are_named_and_leave_the_others_alone(
    folder: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.png")
    samples = [SAMPLES[0], {"id": 7, "view": 0, "image": missing, "text": "a"}, SAMPLES[1]]
    backbone = load(folder)

    prepared, measured = backbone.prepare(samples), backbone.measure(samples)

    assert prepared.failures == measured.failures == {1: f"{missing}: there is no such file"}
    assert prepared.lengths["tokens"][1] == measured.lengths["tokens"][1] == 0
    found = backbone.run(prepared, [2]).streams["tokens"].values
    torch.testing.assert_close(found, run(backbone, [SAMPLES[1]]).values, **CLOSE)


def test_a_view_is_a_part_of_the_image_in_a_frame_of_its_own(folder: Path) -> None:
    recipe = LetterboxRecipe(64, 96)
    view = draw_view(3, 1)
    assert view is not None
    image = Image.open(io.BytesIO(WIDE)).convert("RGB")
    left, upper, right, lower = view.box
    part = image.crop((round(left * 90), round(upper * 70), round(right * 90), round(lower * 70)))
    if view.is_flipped:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    part.save(file, "PNG")

    found = recipe.pixels({"id": 3, "view": 1}, WIDE)

    assert np.array_equal(found, recipe.pixels({"id": 3, "view": 0}, file.getvalue()))
    assert not np.array_equal(found, recipe.pixels({"id": 3, "view": 0}, WIDE))


def test_a_network_can_be_trained_from_scratch(folder: Path) -> None:
    """Benchmarks do, since no pretrained model is small."""
    sizes = ClipViLConfig.model_validate_json((folder / "config.json").read_text())
    network = ClipViL(sizes).train()
    ids, mask = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]]), torch.tensor([[1, 1, 1, 0], [1] * 4])

    states = network([torch.randn(3, 64, 96), torch.randn(3, 96, 64)], ids, mask)
    states.tokens[-1].square().sum().backward()

    assert states.lengths.tolist() == [3 + 6, 4 + 6]
    still = [name for name, value in network.named_parameters() if value.grad is None]
    assert still == []


def test_the_released_names_and_sizes_are_those_of_the_network() -> None:
    """timm's renaming of OpenAI's RN50x4 must fit, and BERT's names must be there."""
    import timm
    from timm.models import byobnet

    with torch.device("meta"):
        state = ClipViL(ClipViLConfig()).state_dict()
        twin = timm.create_model("resnet50x4_clip")

    visual = {n.replace(VISUAL, "visual."): v for n, v in state.items() if n.startswith(VISUAL)}
    renamed = byobnet._convert_openai_clip(visual, twin)
    body = {n: v.shape for n, v in twin.state_dict().items() if not n.startswith("head.")}
    assert {name: value.shape for name, value in renamed.items()} == body
    expected = {
        "bert.embeddings.word_embeddings.weight": (30522, 768),
        "bert.embeddings.position_embeddings.weight": (512, 768),
        "bert.embeddings.LayerNorm.bias": (768,),
        "bert.encoder.visn_fc.visn_fc.weight": (768, 2560),
        "bert.encoder.visn_fc.visn_layer_norm.weight": (768,),
        "bert.encoder.visual_pos.x_position_embedding.weight": (25, 2560),
        "bert.encoder.layer.11.attention.self.query.weight": (768, 768),
        "bert.encoder.layer.0.attention.output.LayerNorm.weight": (768,),
        "bert.encoder.layer.0.intermediate.dense.weight": (3072, 768),
        "bert.encoder.layer.0.output.dense.bias": (768,),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def released(folder: Path, path: Path, prefix: str = "module.") -> Path:
    """What the authors would have saved, with what only their pretraining needed."""
    state = {
        **load_file(folder / "model.safetensors"),
        **load_file(folder / "heads.safetensors"),
        "bert.encoder.visn_fc.box_fc.weight": torch.zeros(16, 4),
        f"{VISUAL}attnpool.q_proj.weight": torch.zeros(256, 256),
        "bert.encoder.visual_model.logit_scale": torch.zeros(()),
        "cls.seq_relationship.weight": torch.zeros(2, 16),
        "obj_predict_head.transform.dense.weight": torch.zeros(16, 16),
    }
    torch.save({prefix + name: value for name, value in state.items()}, path)
    return path


def text_encoder(folder: Path, place: Path) -> Path:
    """The tokenizer and the config of the tiny text encoder, as on the hub."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2}
    (place / "config.json").write_text(json.dumps(sizes))
    return place


@pytest.mark.parametrize("prefix", ["module.", "module.lxrt_encoder.model."])
def test_a_converted_checkpoint_gives_the_same_states(
    folder: Path, tmp_path: Path, unipt_command: Callable[..., Any], prefix: str
) -> None:
    checkpoint = released(folder, tmp_path / "released.pth", prefix)
    bert = text_encoder(folder, tmp_path / "bert")

    done = unipt_command(
        "convert", "clip-vil", checkpoint, tmp_path / "out", "--tokenizer", bert, "--json"
    )

    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert "bert.encoder.visn_fc.box_fc.weight" in facts["left_out"]
    sizes = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**sizes, "image_size": [64, 96]}))
    found = run(load(tmp_path / "out"), SAMPLES)
    assert torch.equal(found.values, run(load(folder), SAMPLES).values)
    heads = load_file(tmp_path / "out" / "heads.safetensors")
    for name, value in load_file(folder / "heads.safetensors").items():
        assert torch.equal(heads.pop(name), value)
    assert heads == {}


def test_what_is_no_clip_vil_is_refused(folder: Path, tmp_path: Path) -> None:
    bert = str(text_encoder(folder, tmp_path / "bert"))
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")

    with pytest.raises(UnsupportedBackboneError, match=r"no tensor .*word_embeddings"):
        convert_checkpoint("clip-vil", tmp_path / "other.pth", tmp_path / "out", tokenizer=bert)

    copy = shutil.copytree(folder, tmp_path / "model")
    state = load_file(copy / "model.safetensors")
    state["bert.encoder.layer.0.adapter.weight"] = torch.zeros(1)
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UnsupportedBackboneError, match=r"also have 1 tensors of ClipViL.*adapter"):
        load(copy)


def test_settings_that_do_not_fit_are_refused(folder: Path) -> None:
    for size in (70, (64, 64), 128):
        with pytest.raises(BackboneError, match="needed one multiple of 32, at most 96"):
            load(folder, image_size=size)
    with pytest.raises(BackboneError, match="max length is 2, needed 3 to 64"):
        load(folder, max_length=2)
    with pytest.raises(BackboneError, match="image is NoneType"):
        load(folder).prepare([{"id": 0, "view": 0, "text": "no image"}])


def test_the_manifests_options_load_the_same_backbone_again(folder: Path) -> None:
    backbone = load(folder, image_size=96, layers=(1,), max_length=8, precision="bfloat16")

    again = load_backbone(BackboneConfig.from_spec(backbone.spec), "cpu")

    assert again.identity == backbone.identity
    assert again.streams == backbone.streams
    assert torch.equal(run(again, SAMPLES).values, run(backbone, SAMPLES).values)
    assert run(again, SAMPLES).values.dtype == torch.bfloat16
