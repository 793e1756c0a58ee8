"""Where a checkpoint's chat template and the names it uses come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from chat_fixtures import ChatStyle

from cullama.checkpoint.opening import open_checkpoint
from cullama.checkpoint.template_files import (
    folder_names,
    folder_template,
    gguf_names,
    gguf_template,
)
from cullama.errors import ChatTemplateError, ModelFileError

PATH = Path("somewhere/model.gguf")
TOKENS = ["<unk>", "<s>", "</s>", "a"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(jinja: str | None = None, special: Any = None, **config: Any) -> Path:
        if config:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        if special is not None:
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
        if jinja is not None:
            (tmp_path / "chat_template.jinja").write_text(jinja, encoding="utf-8")
        return tmp_path

    return write


# --- folders


def test_a_folder_without_a_template_has_none(write: Callable[..., Path]) -> None:
    assert folder_template(write()) is None
    assert folder_template(write(bos_token="<s>")) is None
    assert folder_template(write(chat_template=None)) is None
    assert folder_template(write(chat_template="")) is None
    assert folder_template(write(chat_template=[])) is None


def test_the_template_of_the_settings(write: Callable[..., Path]) -> None:
    folder = write(chat_template="{{ bos_token }}", bos_token="<s>", eos_token=None)
    template = folder_template(folder)
    assert template is not None
    assert template.source == "{{ bos_token }}"
    assert template.where == f"{folder / 'tokenizer_config.json'}: chat_template"
    assert template.names == {"bos_token": "<s>"}
    assert template.render([]) == "<s>"


def test_the_default_of_several_templates_is_used(write: Callable[..., Path]) -> None:
    tools, default = ({"name": name, "template": name} for name in ("tool_use", "default"))
    template = folder_template(write(chat_template=[tools, default]))
    assert template is not None
    assert template.source == "default"
    assert template.for_tools is not None
    assert template.for_tools.source == "tool_use"
    with pytest.raises(ChatTemplateError, match=r"holds \['tool_use'\], expected one with the"):
        folder_template(write(chat_template=[tools]))


def test_a_second_file_is_the_template_for_tools(write: Callable[..., Path]) -> None:
    folder = write(jinja="file", chat_template="settings", bos_token="<s>")
    (folder / "additional_chat_templates").mkdir()
    path = folder / "additional_chat_templates" / "tool_use.jinja"
    path.write_text("{{ bos_token }}{{ tools }}", encoding="utf-8")
    template = folder_template(folder)
    assert template is not None
    assert template.for_tools is not None
    assert template.for_tools.render([], tools=[1]) == "<s>[1]"
    assert template.for_tools.where == str(path)


def test_a_template_file_is_preferred_to_the_settings(write: Callable[..., Path]) -> None:
    folder = write(jinja="file", chat_template="settings", eos_token={"content": "</s>"})
    template = folder_template(folder)
    assert template is not None
    assert (template.source, template.where) == ("file", str(folder / "chat_template.jinja"))
    assert template.names == {"eos_token": "</s>"}


def test_a_template_file_needs_no_settings(write: Callable[..., Path]) -> None:
    template = folder_template(write(jinja="file"))
    assert template is not None
    assert template.names == {}


def test_names_are_texts_or_objects_in_either_file(write: Callable[..., Path]) -> None:
    added = {"content": "</s>", "lstrip": False, "special": True}
    special = {"bos_token": "<old>", "unk_token": {"content": "<unk>"}, "other": []}
    folder = write(special=special, bos_token="<s>", eos_token=added, extra="x")
    names = {"bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
    assert folder_names(folder) == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chat_template": 3}, "chat_template is 3, expected a string"),
        ({"chat_template": {"a": 1}}, "chat_template is {'a': 1}, expected a string"),
        ({"chat_template": ["a"]}, "chat_template is ['a'], expected a string, or a list of obj"),
        ({"chat_template": [{"name": "default"}]}, "expected a string, or a list of objects"),
        ({"bos_token": 3}, "bos_token is 3, expected an object"),
        ({"bos_token": {}}, "bos_token is {}, expected a token, as a string"),
        ({"bos_token": {"content": 3}}, "bos_token.content is 3, expected a string"),
    ],
)
def test_settings_that_are_wrong_are_named(
    write: Callable[..., Path], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError) as caught:
        folder_template(write(**config))
    assert "tokenizer_config.json: " in str(caught.value)
    assert message in str(caught.value)


def test_settings_that_are_no_json_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    write()
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json"):
        folder_template(tmp_path)


def test_the_folders_of_the_fixtures_have_their_templates() -> None:
    style = ChatStyle("llama3")
    template = folder_template(style.folder)
    assert template is not None
    assert (template.source, template.names) == (style.source, style.names)


def test_a_checkpoint_in_a_folder_loads_its_template(write_model: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert open_checkpoint(folder).load_chat_template() is None
    (folder / "chat_template.jinja").write_text("{{ eos_token }}", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<e>"}', encoding="utf-8")
    checkpoint = open_checkpoint(folder)
    template = checkpoint.load_chat_template()
    assert template is not None
    assert template.render([]) == "<e>"
    assert checkpoint.template_names() == {"eos_token": "<e>"}


# --- GGUF


def metadata(**fields: Any) -> dict[str, Any]:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "tokens": TOKENS}
    all_fields = {f"tokenizer.ggml.{name}": value for name, value in (ids | fields).items()}
    return {name: value for name, value in all_fields.items() if value is not None}


def test_the_template_of_a_gguf_file() -> None:
    found = gguf_template(metadata() | {"tokenizer.chat_template": "{{ bos_token }}"}, PATH)
    assert found is not None
    assert found.where == "somewhere/model.gguf: tokenizer.chat_template"
    assert found.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert found.render([]) == "<s>"


def test_a_gguf_file_without_a_template_has_none() -> None:
    assert gguf_template(metadata(), PATH) is None
    assert gguf_template(metadata() | {"tokenizer.chat_template": ""}, PATH) is None


def test_a_gguf_file_without_tokens_has_no_names() -> None:
    for outside in (-1, 4, 0xFFFFFFFF):
        assert gguf_names(metadata(bos_token_id=outside), PATH).keys() == {"eos_token", "unk_token"}
    assert gguf_names(metadata(tokens=None), PATH) == {}
    assert gguf_names(metadata(bos_token_id=None, padding_token_id=3), PATH)["pad_token"] == "a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer.chat_template": 3}, "tokenizer.chat_template is 3, expected a string"),
        ({"tokenizer.ggml.eos_token_id": "a"}, "tokenizer.ggml.eos_token_id is 'a'"),
    ],
)
def test_metadata_that_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf_template(metadata() | {"tokenizer.chat_template": "a"} | fields, PATH)
    assert str(caught.value).startswith(f"{PATH}: ")
    assert message in str(caught.value)


def test_a_gguf_file_as_its_writer_writes_it(tmp_path: Path) -> None:
    """The names of the fields are the library's own."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    templates = [("default", "{{ eos_token }}"), ("tool_use", "{{ tools }}")]
    writer.add_chat_template([{"name": name, "template": source} for name, source in templates])
    writer.add_token_list(TOKENS)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    fields = {name: field.value for part in writer.kv_data for name, field in part.items()}
    template = gguf_template(fields, PATH)
    assert template is not None
    assert template.render([]) == "</s>"
    assert template.names == {"eos_token": "</s>", "pad_token": "a"}
    assert template.for_tools is not None
    assert template.for_tools.source == "{{ tools }}"
