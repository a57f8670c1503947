"""Commands to copy, shown by `--help`; a test parses every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "unipt": (
        "unipt run quickstart",
        "unipt extract --backbone bert-base --data reviews.csv",
        "unipt fit --cache reviews-bert-base.zarr --target label",
        "unipt predict --run runs/reviews 'a text to label'",
    ),
    "extract": (
        "unipt extract --backbone bert-base --data reviews.csv",
        "unipt extract --backbone minilm --data train=train.csv --data test=test.csv",
        "unipt extract --backbone roberta-base --data nyu-mll/glue:mrpc --text-column sentence1 "
        "--text-pair-column sentence2 --target label",
        "unipt extract --backbone ./my-bert --data texts.parquet --cache /scratch/texts --dry-run",
        "unipt extract --backbone bert-large --data reviews.csv --fit-in 40GB",
        "unipt extract --backbone vit-tiny --data photos/ --views 4 --on-error skip",
        "unipt extract --backbone clip-vit-b32 --modality image --frames 12 "
        "--data msrvtt:data/msrvtt --key video_id",
    ),
    "inspect": (
        "unipt inspect reviews-bert-base.zarr",
        "unipt inspect reviews-bert-base.zarr --json",
    ),
    "verify": (
        "unipt verify reviews-bert-base.zarr",
        "unipt verify reviews-bert-base.zarr --quick",
    ),
    "repair": ("unipt repair reviews-bert-base.zarr",),
    "gc": (
        "unipt gc reviews-bert-base.zarr --dry-run",
        "unipt gc reviews-bert-base.zarr",
    ),
    "convert": (
        "unipt convert mdetr pretrained_resnet101_checkpoint.pth ./mdetr",
        "unipt convert clip-vil Epoch11_LXRT.pth ./clip-vil",
    ),
    "fit": (
        "unipt fit --cache reviews-bert-base.zarr --target label",
        "unipt fit --cache reviews-bert-base.zarr --target label --network probe --run runs/probe",
        "unipt fit --cache reviews-bert-base.zarr --target label --lr 1e-4 --lr 1e-3 --epochs 10",
        "unipt fit --cache reviews-bert-base.zarr --task regression --target stars "
        "--set optimizer.weight_decay=0.1",
        "unipt fit --cache reviews-bert-base.zarr --target label --run runs/long --resume",
        "unipt fit --cache images.zarr --cache texts.zarr --run runs/search",
    ),
    "evaluate": ("unipt evaluate --run runs/reviews --cache reviews-bert-base.zarr --split test",),
    "predict": (
        "unipt predict --run runs/reviews 'a text' 'another text'",
        "unipt predict --run runs/reviews --data new.csv --out predictions.parquet",
        "unipt predict --run runs/search --cache images.zarr 'a dog on a beach'",
        "unipt predict --run runs/search --cache images.zarr --cache texts.zarr "
        "--out ranked.parquet",
    ),
    "submit": (
        "unipt submit --jobs 8 --gpus 1 --cpus 8 --memory 32G --time 4:00:00 "
        "extract --backbone bert-base --data reviews.csv",
        "unipt submit --after 1234 --gpus 1 fit --cache reviews-bert-base.zarr --lr 1e-3 --lr 1e-4",
        "unipt submit --jobs 8 --gpus 1 --sbatch partition=gpu "
        "run clip4clip-msrvtt --set data.root=/data/msrvtt",
    ),
    "run": (
        "unipt run --list",
        "unipt run quickstart",
        "unipt run bert-base-text-classification --set extract.data=reviews.csv",
    ),
}


def epilog(command: str) -> str:
    """The end of a help page; the first character keeps its lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[command])])
