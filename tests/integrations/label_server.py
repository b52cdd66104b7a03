"""MONAI Label 0.8.5 in a virtual environment of its own: made once, started on a free port, asked over HTTP, always ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CACHED = "BRAIN_BUNDLES_LABEL_VENV"
"""Environment variable: folder of the virtual environment, made there once. Without it a temporary one is made for every run."""
STEPS = (
    ("torch==2.13.0",),
    ("--no-deps", "monailabel==0.8.5"),
    (
        "monai[fire,ignite,itk,nibabel,skimage,pillow,tensorboard,gdown,tqdm,lmdb,psutil,openslide]==1.6.1",
        *("pydicom<3", "pydicom-seg", "pynetdicom<3", "dicomweb-client[gcp]<0.60", "uvicorn", "fastapi", "pydantic", "pydantic-settings"),
        *("python-dotenv", "python-multipart", "httpx", "schedule", "timeloop", "expiringdict", "expiring_dict", "cachetools", "watchdog"),
        *("pynrrd", "numpymaxflow", "girder-client", "ninja", "einops", "pyyaml", "filelock", "passlib", "pyjwt", "bcrypt", "shapely"),
        *("requests", "requests-toolbelt", "scikit-learn", "scipy", "google-auth"),
    ),
)
"""What pip installs, in this order. ``sam2``, which pulls a CUDA build of torch, is left out and switched off."""
STAND_IN = "def make_grid(*args, **kwargs):\n    raise NotImplementedError\n\n\nsave_image = make_grid\n"


def label_environment(folder: Path) -> Path:
    """A virtual environment with MONAI Label; skips the test with the reason where it cannot be made."""
    done = folder / "INSTALLED"
    if not done.is_file():
        for command in (["venv", str(folder)], *(["pip", "install", "-q", *step] for step in STEPS)):
            python = sys.executable if command[0] == "venv" else str(folder / "bin" / "python")
            try:
                result = subprocess.run([python, "-m", *command], capture_output=True, text=True, timeout=1800, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"MONAI Label cannot be installed: {error}")
            if result.returncode:
                pytest.skip(f"MONAI Label cannot be installed: pip install {' '.join(command)}: {result.stderr[-400:]}")
        done.touch()
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server; every request and the head of its answer is kept in ``log``."""

    def __init__(self, port: int) -> None:
        self.address, self.log = f"http://127.0.0.1:{port}", list[str]()

    def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, file: tuple[str, Path] | None = None, body: Any = None
    ) -> bytes:
        """Send a form (``fields`` and one file) or JSON (``body``); the answer's bytes."""
        content, head = None, {}
        if body is not None:
            content, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
        elif fields or file:
            mark = uuid.uuid4().hex
            parts = [f'name="{key}"\r\n\r\n{value}'.encode() for key, value in (fields or {}).items()]
            if file is not None:
                parts.append(f'name="{file[0]}"; filename="{file[1].name}"\r\n\r\n'.encode() + file[1].read_bytes())
            content = b"".join(f"--{mark}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts)
            content, head = content + f"--{mark}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={mark}"}
        request = urllib.request.Request(self.address + path, data=content, headers=head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                data, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error
        self.log.append(f"{method} {path} -> {status} {data[:120] if data[:1] in (b'{', b'[') else f'{len(data)} bytes'}")
        return data

    def train(self, model: str, timeout: int = 900, **params: Any) -> dict[str, Any]:
        """Start a training, which the server runs in a process of its own, and wait for its end; its report."""
        self.ask("POST", f"/train/{model}", body=params)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            report: dict[str, Any] = json.loads(self.ask("GET", "/train/"))
            if report.get("status") not in ("SUBMITTED", "PENDING", "RUNNING"):
                return report
            del self.log[-1]
            time.sleep(2)
        raise AssertionError(f"the training of {model} did not end in {timeout} s")


@contextmanager
def running_server(environment: Path, app: Path, studies: Path, models: str, folder: Path) -> Iterator[Server]:
    """Start the server and wait until it answers; end it and its children whatever happens.

    ``torchvision``, of which it imports two names that bundles do not need, is stood in for: its wheels want one exact build of torch.
    """
    stand_in = folder / "stand_in" / "torchvision"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "utils.py").write_text(STAND_IN, encoding="utf-8")
    port, log = free_port(), folder / "server.log"
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"PYTHONPATH": str(stand_in.parent), "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    variables |= {"MONAI_LABEL_TRACKING_ENABLED": "false"}
    settings = [f"--conf {key} {value}" for key, value in {"models": models, "zoo_source": "local", "sam2": "false"}.items()]
    command = f"monailabel start_server --app {app} --studies {studies} {' '.join(settings)} --host 127.0.0.1 --port {port}"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command.split(), cwd=folder, env=variables, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        server, end = Server(port), time.monotonic() + 300
        while True:
            try:
                server.ask("GET", "/info/")
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(1)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def monaibundle_app(environment: Path, folder: Path) -> Path:
    """The app that serves bundles, as ``monailabel apps --download`` gives it, from the files of its wheel."""
    app = folder / "apps" / "monaibundle"
    shutil.copytree(environment / "monailabel" / "sample-apps" / "monaibundle", app)
    (app / "model").mkdir(exist_ok=True)
    return app
