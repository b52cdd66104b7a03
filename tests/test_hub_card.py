"""The card at the top of an archive is one that Hugging Face takes, and its links hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.archive_files import archive_contents, bundle_names
from common.errors import UserError
from common.hub_card import model_card, moved_links, read_front_matter

META: dict[str, Any] = {
    "version": "1.2.3",
    "network_data_format": {"inputs": {"image": {"modality": "CT"}}, "outputs": {"pred": {"format": "segmentation"}}},
}


@pytest.mark.parametrize("name", bundle_names())
def test_each_card_has_the_front_matter_of_a_monai_model(name: str) -> None:
    card = archive_contents(name)["README.md"].decode()
    data = read_front_matter(card)
    assert data["license"] == "apache-2.0" and data["library_name"] == "monai" and {"monai", "medical"} <= set(data["tags"])
    assert data["pipeline_tag"] in ("image-segmentation", "image-to-image")
    assert all(isinstance(tag, str) for tag in data["tags"])


@pytest.mark.parametrize("name", bundle_names())
def test_hugging_faces_own_reader_takes_each_card(name: str) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is no dependency; read_front_matter reads the same head")
    card = hub.ModelCard(archive_contents(name)["README.md"].decode())
    assert card.data.library_name == "monai" and card.data.license == "apache-2.0"


@pytest.mark.parametrize("name", bundle_names())
def test_every_relative_link_of_a_card_is_a_file_of_the_archive(name: str) -> None:
    contents = archive_contents(name)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", contents["README.md"].decode()) if not re.match(r"[a-z]+:|#", link)]
    assert links and set(links) <= set(contents)


def test_links_are_moved_one_folder_up_and_addresses_stay() -> None:
    page = "[a](equations.md) [b](../LICENSE) [c](https://host/x) [d](#limits) ![e](pictures/e.png) [f](../../../README.md)"
    assert moved_links(page) == "[a](docs/equations.md) [b](LICENSE) [c](https://host/x) [d](#limits) ![e](docs/pictures/e.png) f"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "No weights are in this archive"),
        ({}, "nobody has verified them here"),
        ({"simulated": False, "settings": {"width": 2.0}}, "given by whoever built this archive"),
        ({"simulated": True, "settings": {"width": 2.0}}, "trained on a SIMULATED cohort"),
    ],
)
def test_the_card_says_what_weights_are_inside(record: dict[str, Any] | None, words: str) -> None:
    card = model_card(META, "toy", "# Toy\n", record)
    assert words in card and ("`width` 2.0" in card) == bool(record)
    assert read_front_matter(card)["tags"] == ["monai", "medical", "brain", "ct", "toy"]


def test_a_page_without_front_matter_is_an_error() -> None:
    with pytest.raises(UserError, match="expected front matter of a model card"):
        read_front_matter("# Toy\n")
    with pytest.raises(UserError, match="its front matter is no YAML"):
        read_front_matter("---\na: [\n---\n")
