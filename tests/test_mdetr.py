"""MDETR gives the numbers of DETR's, RoBERTa's and ResNet's own implementations."""

from __future__ import annotations

import argparse
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
from tiny_models import save_tiny_mdetr
from torch import Tensor

from extractor import BackboneConfig, convert_checkpoint, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError
from extractor.backbones.mdetr import MDETR, MDETRConfig
from extractor.backbones.mdetr.images import ImageNetwork, map_size
from extractor.backbones.mdetr.inputs import DetectorRecipe

# Float32 sums in another order; the states are of size 1 to 5.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def picture(seed: int, size: tuple[int, int]) -> bytes:
    """A smooth random photo as PNG bytes; size is width and height."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


WIDE, TALL = picture(0, (90, 70)), picture(1, (64, 200))
# By hand: the shorter side 64, unless the longer one would be above 112.
PIXELS = {WIDE: (64, 82), TALL: (112, 36)}
SAMPLES: list[dict[str, Any]] = [
    {"id": 0, "view": 0, "image": WIDE, "text": "the old bridge"},
    {"id": 1, "view": 0, "image": TALL, "text": "Once"},
    {"id": 2, "view": 0, "image": WIDE, "text": "Please read the signed forms, before Friday!"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MDETR."""
    return save_tiny_mdetr(tmp_path_factory.mktemp("mdetr"))


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]]) -> Any:
    return backbone.run(backbone.prepare(samples), range(len(samples)))


def rows(stream: Any, sample: int) -> Tensor:
    start = int(stream.layout.first_rows()[sample])
    part: Tensor = stream.values[start : start + int(stream.layout.lengths[sample])]
    return part


class Twin:
    """MDETR put together from other people's parts, filled with the same weights.

    Samples are padded as the authors pad them: maps to one size, texts after all places.
    """

    def __init__(self, folder: Path) -> None:
        import timm
        from transformers import DetrConfig, RobertaConfig, RobertaModel
        from transformers.models.detr import modeling_detr as detr

        self.sizes = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
        width, heads = self.sizes["hidden_size"], self.sizes["num_heads"]
        self.images = timm.create_model("test_resnet").eval()
        self._fill(self.images, state, "backbone.0.body.", lambda name: name)
        text = dict(self.sizes["text_config"])
        text.pop("model_type")
        self.text = RobertaModel(RobertaConfig(**text), add_pooling_layer=False).eval()
        self._fill(self.text, state, "transformer.text_encoder.", lambda name: name)
        config = DetrConfig(
            d_model=width,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=self.sizes["intermediate_size"],
            decoder_ffn_dim=self.sizes["intermediate_size"],
        )
        config._attn_implementation = "eager"
        self.encoder, self.decoder = (
            detr.DetrEncoder(config).eval(),
            detr.DetrDecoder(config).eval(),
        )
        for part, name in ((self.encoder, "encoder"), (self.decoder, "decoder")):
            self._fill(part, split_attention(state), f"transformer.{name}.", of_detr)
        self.places = detr.DetrSinePositionEmbedding(width // 2, normalize=True)
        self.state = state

    @staticmethod
    def _fill(
        part: torch.nn.Module, state: dict[str, Tensor], prefix: str, rename: Callable[[str], str]
    ) -> None:
        own = {
            rename(name.removeprefix(prefix)): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        report = part.load_state_dict(own, strict=False)
        assert not report.unexpected_keys
        assert all("fc." in name or "num_batches" in name for name in report.missing_keys)

    @torch.no_grad()
    def run(self, samples: list[dict[str, Any]], folder: Path) -> tuple[list[Tensor], ...]:
        """Per sample (rows, 7, width) of the encoder and (queries, 6, width) of the decoder."""
        from transformers import RobertaTokenizer

        state, width = self.state, self.sizes["hidden_size"]
        maps = [self._map(sample["image"]) for sample in samples]
        height, across = (max(m.shape[axis] for m in maps) for axis in (1, 2))
        source = torch.zeros(len(maps), width, height, across)
        real = torch.zeros(len(maps), height, across, dtype=torch.bool)
        for at, one in enumerate(maps):
            source[at, :, : one.shape[1], : one.shape[2]] = one
            real[at, : one.shape[1], : one.shape[2]] = True
        where = self.places(source.shape, source.device, source.dtype, mask=real)
        where = where if where.dim() == 3 else where.flatten(2).transpose(1, 2)
        tokens = RobertaTokenizer.from_pretrained(folder)(
            [sample["text"] for sample in samples], padding=True, return_tensors="pt"
        )
        words = self.text(tokens.input_ids, tokens.attention_mask).last_hidden_state
        words = words @ state["transformer.resizer.fc.weight"].T
        words = torch.nn.functional.layer_norm(
            words + state["transformer.resizer.fc.bias"],
            (width,),
            state["transformer.resizer.layer_norm.weight"],
            state["transformer.resizer.layer_norm.bias"],
            1e-12,
        )
        joint = torch.cat([source.flatten(2).transpose(1, 2), words], dim=1)
        places = torch.cat([where, torch.zeros_like(words)], dim=1)
        mask = torch.cat([real.flatten(1), tokens.attention_mask.bool()], dim=1)
        memory, after = self._watched(
            self.encoder, inputs_embeds=joint, attention_mask=mask.long(),
            spatial_position_embeddings=places,
        )  # fmt: skip
        queries = state["query_embed.weight"].expand(len(maps), -1, -1)
        last, between = self._watched(
            self.decoder, inputs_embeds=torch.zeros_like(queries),
            encoder_hidden_states=memory, encoder_attention_mask=mask.long(),
            spatial_position_embeddings=places, object_queries_position_embeddings=queries,
        )  # fmt: skip
        encoder = torch.stack([joint, *after], dim=2)
        decoder = torch.stack([*between[:-1], last], dim=2)
        return [encoder[at, mask[at]] for at in range(len(maps))], list(decoder)

    def _map(self, source: bytes) -> Tensor:
        """An image's projected map, of torchvision's pixels."""
        from torchvision.transforms import functional

        image = Image.open(io.BytesIO(source)).convert("RGB")
        resized = functional.resize(image, PIXELS[source])
        pixels = functional.to_tensor(resized)
        pixels = functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        features = self.images.forward_features(pixels[None])
        return torch.nn.functional.conv2d(
            features, self.state["input_proj.weight"], self.state["input_proj.bias"]
        )[0]

    @staticmethod
    def _watched(part: Any, **inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda module, args, output: seen.append(output))
            for layer in part.layers
        ]
        last = part(**inputs).last_hidden_state
        for hook in hooks:
            hook.remove()
        return last, seen


def split_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values apart."""
    split = {}
    for name, value in state.items():
        if "in_proj_" in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                split[name.replace("in_proj_", f"{part}_proj.")] = third
        else:
            split[name] = value
    return split


def of_detr(name: str) -> str:
    """A released name as transformers' DETR has it."""
    if name.startswith("norm."):
        return f"layernorm.{name.removeprefix('norm.')}"
    for old, new in (
        ("cross_attn_image", "encoder_attn"),
        ("out_proj", "o_proj"),
        ("linear1", "mlp.fc1"),
        ("linear2", "mlp.fc2"),
        ("norm1", "self_attn_layer_norm"),
        ("norm3", "encoder_attn_layer_norm"),
        ("norm4", "final_layer_norm"),
        ("norm2", "final_layer_norm"),
    ):
        name = name.replace(old, new)
    return name


def test_states_are_those_of_detr_roberta_and_resnet(folder: Path) -> None:
    backbone = load(folder)

    batch = run(backbone, SAMPLES)

    encoder, decoder = Twin(folder).run(SAMPLES, folder)
    for sample in range(len(SAMPLES)):
        torch.testing.assert_close(rows(batch.streams["encoder"], sample), encoder[sample], **CLOSE)
        torch.testing.assert_close(rows(batch.streams["decoder"], sample), decoder[sample], **CLOSE)


def test_each_layer_is_the_output_of_the_module_it_names(folder: Path) -> None:
    backbone = load(folder)
    modules = dict(backbone._network.named_modules())
    seen: dict[str, Tensor] = {}
    for stream in backbone.streams:
        for layer in stream.layers:
            path, _, is_input = layer.module.partition(":")
            if is_input:
                modules[path].register_forward_pre_hook(
                    lambda module, args, name=layer.module: seen.update({name: args[0]})
                )
            else:
                modules[path].register_forward_hook(
                    lambda module, args, output, name=layer.module: seen.update({name: output})
                )

    batch = run(backbone, SAMPLES[:1])

    for stream in backbone.streams:
        for position, layer in enumerate(stream.layers):
            values = batch.streams[stream.name].values[:, position]
            torch.testing.assert_close(values, seen[layer.module][0], **CLOSE)
    encoder, decoder = backbone.streams
    assert [layer.index for layer in encoder.layers] == [0, 1, 2, 3, 4, 5, 6]
    assert {layer.final_norm for layer in encoder.layers} == {None}
    assert [layer.index for layer in decoder.layers] == [1, 2, 3, 4, 5, 6]
    assert [layer.final_norm for layer in decoder.layers] == [False] * 5 + [True]


def test_the_recipes_layers_are_those_of_the_whole_run(folder: Path) -> None:
    whole, chosen = run(load(folder), SAMPLES), load(folder, layers=(1, 3, 5, 6))

    few = run(chosen, SAMPLES)

    for stream in chosen.streams:
        assert [layer.index for layer in stream.layers] == [1, 3, 5, 6]
        numbers = [1, 3, 5, 6] if stream.name == "encoder" else [0, 2, 4, 5]
        found, expected = few.streams[stream.name].values, whole.streams[stream.name].values
        assert torch.equal(found, expected[:, numbers])


def test_a_sample_does_not_feel_its_batch(folder: Path) -> None:
    """Padding would leak through the convolutions, so images are never padded."""
    backbone = load(folder)
    prepared = backbone.prepare(SAMPLES)

    batch = backbone.run(prepared, [2, 0, 1])

    for position, sample in enumerate([2, 0, 1]):
        alone = backbone.run(prepared, [sample])
        for name, stream in batch.streams.items():
            torch.testing.assert_close(rows(stream, position), alone.streams[name].values, **CLOSE)


def test_rows_are_the_maps_places_and_the_texts_tokens(folder: Path) -> None:
    backbone = load(folder)

    prepared, measured = backbone.prepare(SAMPLES), backbone.measure(SAMPLES)

    tokens = prepared.inputs["token_ids"].lengths
    assert prepared.grids["encoder"].tolist() == [[2, 3], [4, 2], [2, 3]]
    assert prepared.lengths["encoder"].tolist() == [6 + tokens[0], 8 + tokens[1], 6 + tokens[2]]
    assert prepared.lengths["decoder"].tolist() == [5, 5, 5]
    for name, lengths in prepared.lengths.items():
        assert measured.lengths[name].tolist() == lengths.tolist()
    batch = backbone.run(prepared, [1])
    assert batch.streams["encoder"].grid.tolist() == [[4, 2]]
    stored = [prepared.inputs[name].values.nbytes for name in backbone.stored_inputs]
    assert measured.input_bytes == sum(stored)


def test_every_token_knows_its_characters(folder: Path) -> None:
    from transformers import RobertaTokenizer

    tokenizer = RobertaTokenizer.from_pretrained(folder)
    prepared = load(folder).prepare(SAMPLES)

    for sample, spoken in enumerate(SAMPLES):
        text = spoken["text"]
        spans = prepared.inputs["token_spans"][sample].reshape(-1, 2)
        ids = prepared.inputs["token_ids"][sample]
        assert len(spans) == len(ids)
        assert spans[[0, -1]].tolist() == [[0, 0], [0, 0]]
        for (begin, end), token in zip(spans[1:-1], ids[1:-1], strict=True):
            assert text[begin:end] == tokenizer.decode([token]).strip()
        encoding = tokenizer(text)
        for at in range(len(text)):
            inside = [n for n, (begin, end) in enumerate(spans) if begin <= at < end]
            assert (inside or [None])[0] == encoding.char_to_token(at)


def test_an_image_with_several_texts_is_read_and_convolved_once(folder: Path) -> None:
    backbone = load(folder)
    sizes: list[int] = []
    backbone._network.backbone.register_forward_hook(
        lambda module, args, output: sizes.append(len(args[0]))
    )

    prepared = backbone.prepare(SAMPLES)
    backbone.run(prepared, [0, 1, 2])

    assert len(prepared.inputs["pixels"]) == 2
    assert sizes == [1, 1]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),
        (640, 480, (1066, 800)),
        (500, 500, (800, 800)),
        (300, 1000, (400, 1333)),
        (1000, 300, (1333, 400)),
        (800, 900, (800, 900)),
    ],
)
def test_images_are_resized_as_the_authors_do(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    recipe = DetectorRecipe(800, 1333)

    assert recipe.size(height, width, {"id": 0, "view": 0}) == expected


def test_a_map_is_as_large_as_its_size_says() -> None:
    """Lengths are told before anything is run."""
    network = ImageNetwork("resnet18", {}).eval()
    for height, width in ((64, 64), (65, 97), (96, 33)):
        with torch.no_grad():
            found = network(torch.zeros(1, 3, height, width))

        assert tuple(found.shape[2:]) == map_size(height, width)


def test_a_view_is_the_whole_image_at_another_size(folder: Path) -> None:
    """A crop or a mirror image could lose what the text names."""
    backbone = load(folder, image_size=320)
    views = [{**SAMPLES[0], "view": view} for view in range(20)]

    prepared, again = backbone.prepare(views), backbone.prepare(views)

    heights = prepared.inputs["pixel_sizes"][:, 0]
    assert heights[0] == 320
    assert set(heights.tolist()) <= {round(320 * side / 800) for side in range(480, 801, 32)}
    assert len(set(heights.tolist())) > 3
    assert np.array_equal(heights, again.inputs["pixel_sizes"][:, 0])
    assert measured_equals(backbone, views, prepared)


def measured_equals(backbone: Any, samples: list[dict[str, Any]], prepared: Any) -> bool:
    measured = backbone.measure(samples)
    return bool((measured.lengths["encoder"] == prepared.lengths["encoder"]).all())


def test_unreadable_images_are_named_and_leave_the_others_alone(
    folder: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.png")
    samples = [SAMPLES[0], {"id": 7, "view": 0, "image": missing, "text": "a"}, SAMPLES[1]]
    backbone = load(folder)

    prepared, measured = backbone.prepare(samples), backbone.measure(samples)

    assert prepared.failures == measured.failures == {1: f"{missing}: there is no such file"}
    assert prepared.lengths["encoder"][1] == prepared.lengths["decoder"][1] == 0
    found = backbone.run(prepared, [2]).streams["decoder"].values
    torch.testing.assert_close(
        found, run(backbone, [SAMPLES[1]]).streams["decoder"].values, **CLOSE
    )


def test_a_network_can_be_trained_from_scratch() -> None:
    """Benchmarks do, since no pretrained model is small."""
    text = {
        "model_type": "roberta", "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 20,
    }  # fmt: skip
    config = MDETRConfig(
        backbone="timm_test_resnet", hidden_size=8, num_heads=2, intermediate_size=8,
        num_queries=3, text_config=text,
    )  # fmt: skip
    network = MDETR(config).train()
    ids, mask = torch.tensor([[0, 5, 2, 1], [0, 6, 7, 2]]), torch.tensor([[1, 1, 1, 0], [1] * 4])

    states = network([torch.randn(3, 64, 64), torch.randn(3, 64, 96)], ids, mask)
    states.decoder[-1].square().sum().backward()

    assert states.lengths.tolist() == [4 + 3, 6 + 4]
    assert states.grids.tolist() == [[2, 2], [2, 3]]
    still = [name for name, value in network.named_parameters() if value.grad is None]
    assert still == []


def test_the_released_names_and_sizes_are_those_of_the_network() -> None:
    """Names as the authors' modules give them: their checkpoint must load without renaming."""
    text = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514}
    with torch.device("meta"):
        network = MDETR(MDETRConfig(text_config=text))
    state = network.state_dict()

    expected = {
        "backbone.0.body.conv1.weight": (64, 3, 7, 7),
        "backbone.0.body.bn1.running_var": (64,),
        "backbone.0.body.layer1.0.downsample.1.bias": (256,),
        "backbone.0.body.layer3.22.conv3.weight": (1024, 256, 1, 1),
        "backbone.0.body.layer4.2.bn3.weight": (2048,),
        "input_proj.weight": (256, 2048, 1, 1),
        "query_embed.weight": (100, 256),
        "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "transformer.encoder.layers.5.linear1.weight": (2048, 256),
        "transformer.decoder.layers.0.cross_attn_image.out_proj.bias": (256,),
        "transformer.decoder.layers.0.norm3.weight": (256,),
        "transformer.decoder.layers.5.norm4.bias": (256,),
        "transformer.decoder.norm.weight": (256,),
        "transformer.resizer.fc.weight": (256, 768),
        "transformer.resizer.layer_norm.bias": (256,),
        "transformer.text_encoder.embeddings.position_embeddings.weight": (514, 768),
        "transformer.text_encoder.encoder.layer.11.attention.self.query.weight": (768, 768),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert not any("norm2" in name for name in state if ".decoder." in name)
    assert not any(name.endswith("num_batches_tracked") for name in state)


def released(folder: Path, path: Path, **changes: Any) -> Path:
    """What the authors would have saved: averaged weights, heads, and their command line."""
    state = {**load_file(folder / "model.safetensors"), **load_file(folder / "heads.safetensors")}
    extra = {
        "transformer.text_encoder.pooler.dense.weight": torch.zeros(16, 16),
        "transformer.text_encoder.embeddings.position_ids": torch.arange(66)[None],
        "transformer.side_gate_layer_encoder.weight": torch.zeros(1, 8),
    }
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save(
        {
            "model": zeros,
            "model_ema": {**state, **extra, **changes},
            "args": argparse.Namespace(backbone="timm_test_resnet", nheads=2),
            "epoch": 4,
        },
        path,
    )
    return path


def text_encoder(folder: Path, place: Path) -> Path:
    """The tokenizer and the config of the tiny text encoder, as on the hub."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    (place / "config.json").write_text(json.dumps(text))
    return place


def test_a_converted_checkpoint_gives_the_same_states(
    folder: Path, tmp_path: Path, unipt_command: Callable[..., Any]
) -> None:
    checkpoint = released(folder, tmp_path / "released.pth")
    roberta = text_encoder(folder, tmp_path / "roberta")

    done = unipt_command("convert", "mdetr", checkpoint, tmp_path / "mdetr", "--tokenizer", roberta)

    assert done.code == 0, done.err
    found = run(load(tmp_path / "mdetr", image_size=64), SAMPLES)
    expected = run(load(folder), SAMPLES)
    for name, stream in expected.streams.items():
        # The longest side is another: the released 1333 of 800.
        same = rows(stream, 0)
        torch.testing.assert_close(rows(found.streams[name], 0), same, **CLOSE)
    heads = load_file(tmp_path / "mdetr" / "heads.safetensors")
    for name, value in load_file(folder / "heads.safetensors").items():
        assert torch.equal(heads.pop(name), value)
    assert heads == {}


class Attack:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_a_checkpoint_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"model": Attack()}, tmp_path / "evil.pth")

    with pytest.raises(UnsupportedBackboneError, match="cannot be read without running code"):
        convert_checkpoint("mdetr", tmp_path / "evil.pth", tmp_path / "out", tokenizer=None)

    assert not (tmp_path / "out").exists()


def test_what_is_no_grounding_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    roberta = str(text_encoder(folder, tmp_path / "roberta"))
    answering = released(folder, tmp_path / "qa.pth", **{"qa_embed.weight": torch.zeros(6, 16)})
    with pytest.raises(UnsupportedBackboneError, match=r"qa_embed.*needed an MDETR for grounding"):
        convert_checkpoint("mdetr", answering, tmp_path / "out", tokenizer=roberta)

    torch.save({"model": {"fc.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(UnsupportedBackboneError, match=r"no tensor 'query_embed\.weight'"):
        convert_checkpoint("mdetr", tmp_path / "other.pth", tmp_path / "out", tokenizer=roberta)

    wide = {"input_proj.bias": torch.zeros(17)}
    wrong = released(folder, tmp_path / "wide.pth", **wide)
    with pytest.raises(UnsupportedBackboneError, match=r"1 have another size.*input_proj.bias"):
        convert_checkpoint("mdetr", wrong, tmp_path / "out", tokenizer=roberta)

    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(UnsupportedBackboneError, match="is not empty"):
        convert_checkpoint("mdetr", wrong, full, tokenizer=roberta)


def test_weights_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    state = load_file(copy / "model.safetensors")
    del state["query_embed.weight"]
    save_file(state, copy / "model.safetensors")

    with pytest.raises(UnsupportedBackboneError, match=r"lack 1 tensors of MDETR.*query_embed"):
        load(copy)

    (copy / "config.json").write_text('{"model_type": "mdetr", "num_queries": 0}')
    with pytest.raises(UnsupportedBackboneError, match=r"num_queries.*text_config"):
        load(copy)


def test_settings_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(BackboneError, match="needed one number of 32 or more"):
        load(folder, image_size=(64, 64))
    with pytest.raises(BackboneError, match="max length is 100, needed 3 to 64"):
        load(folder, max_length=100)
    with pytest.raises(BackboneError, match=r"layers \[9\] were asked for"):
        load(folder, layers=(9,))
    with pytest.raises(BackboneError, match="sample 0: text is None"):
        load(folder).prepare([{"id": 0, "view": 0, "image": WIDE}])


def test_the_manifests_options_load_the_same_backbone_again(folder: Path) -> None:
    backbone = load(folder, image_size=96, layers=(1, 3), max_length=8, precision="bfloat16")

    again = load_backbone(BackboneConfig.from_spec(backbone.spec), "cpu")

    assert again.identity == backbone.identity
    assert again.streams == backbone.streams
    found, expected = run(again, SAMPLES).streams, run(backbone, SAMPLES).streams
    assert torch.equal(found["decoder"].values, expected["decoder"].values)
    assert found["decoder"].values.dtype == torch.bfloat16
