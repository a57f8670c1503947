"""A real S3 server on the loopback interface (moto), in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SERVE = """
import logging, signal, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("%s:%d" % server.get_host_and_port(), flush=True)
signal.sigwait([signal.SIGTERM])
"""
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def serve_s3() -> Iterator[dict[str, str]]:
    """The environment variables by which clients find it; a bucket `caches` is there."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            address = f"http://{server.stdout.readline().strip()}"
            import boto3

            client = boto3.client(
                "s3",
                endpoint_url=address,
                aws_access_key_id=SETTINGS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=SETTINGS["AWS_SECRET_ACCESS_KEY"],
                region_name=SETTINGS["AWS_DEFAULT_REGION"],
            )
            client.create_bucket(Bucket="caches")
            yield {**SETTINGS, "AWS_ENDPOINT_URL": address}
        finally:
            server.send_signal(signal.SIGTERM)
