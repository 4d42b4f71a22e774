"""`{file: system.md}`: a prompt, or a message's content, in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from unprompt import pipeline
from unprompt.messages import UserError
from unprompt.recipe import Recipe, load, parse
from unprompt.recipe.reference import json_schema
from unprompt.stages.prompts import rendered


def _recipe(folder: Path, model: Path, **sides: Any) -> Recipe:
    words = tiny_recipe(model)
    words["contexts"]["colours"] |= sides
    return parse(words, folder)


def test_a_file_is_the_prompt_that_stands_in_it(decoder_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.md").write_bytes("\ufeff# Rülés\r\nSay {{ text }}:\n".encode())
    recipe = _recipe(tmp_path, decoder_folder, teacher={"file": "long.md"})
    shown = rendered(recipe).teacher["colours"].prompts[0].content
    assert shown == "# Rülés\nSay red:"
    inline = _recipe(tmp_path, decoder_folder, teacher="# Rülés\nSay {{ text }}:\n")
    assert recipe.model_dump(mode="json") == inline.model_dump(mode="json")
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    (tmp_path / "long.md").unlink()
    assert load(tmp_path / "resolved.yaml").to_yaml() == recipe.to_yaml()


def test_a_json_file_is_a_list_of_messages(decoder_folder: Path, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "{{ text }}"}]
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    recipe = _recipe(tmp_path, decoder_folder, teacher={"file": "chat.json"})
    inline = _recipe(tmp_path, decoder_folder, teacher=messages)
    assert recipe.model_dump(mode="json") == inline.model_dump(mode="json")


def test_a_messages_content_may_be_a_file(decoder_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "system.md").write_text("Be kind.\n")
    user = {"role": "user", "content": "{{ text }}"}
    recipe = _recipe(
        tmp_path,
        decoder_folder,
        teacher=[{"role": "system", "content": {"file": "system.md"}}, user],
    )
    teacher = recipe.contexts["colours"].teacher
    assert teacher
    assert teacher.messages
    assert teacher.messages[0].content == "Be kind.\n"


def test_what_stands_in_the_file_decides(decoder_folder: Path, tmp_path: Path) -> None:
    def run() -> pipeline.Run:
        sides = {"teacher": {"file": "long.md"}}
        return pipeline.run(_recipe(tmp_path, decoder_folder, **sides), tmp_path / "run")

    (tmp_path / "long.md").write_text("Say {{ text }}:")
    run()
    assert run().unchanged
    (tmp_path / "long.md").write_text("Shout {{ text }}:")
    assert not run().unchanged


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.md", None, "there is no such prompt file"),
        ("empty.md", b"\n", "the prompt file is empty"),
        ("latin.md", b"\xe9t\xe9", "not UTF-8 text"),
        ("broken.json", b'[{"role":\n]', "not JSON .*line 2"),
        ("one.json", b'{"role": "user"}', "no list of messages"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        _recipe(tmp_path, tmp_path, teacher={"file": name})
    assert "contexts.colours.teacher" in str(error.value)
    assert name in str(error.value)


def test_only_one_of_file_and_text_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("A")
    with pytest.raises(UserError, match="give one of text, messages and file"):
        _recipe(tmp_path, tmp_path, teacher={"file": "a.md", "text": "B"})
    (tmp_path / "c.json").write_text('[{"role": "user", "content": "x"}]')
    with pytest.raises(UserError, match="a content is text"):
        _recipe(tmp_path, tmp_path, teacher=[{"role": "user", "content": {"file": "c.json"}}])


def test_what_is_wrong_in_a_template_names_its_file_and_line(
    decoder_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "long.md").write_text("One\nTwo {{ text }\n")
    with pytest.raises(UserError, match=r"colours.teacher \(.*long.md\), line 2: not a Jinja2"):
        rendered(_recipe(tmp_path, decoder_folder, teacher={"file": "long.md"}))
    (tmp_path / "long.md").write_text("{% raw %}{{ none }}{% endraw %} {{ text }}:")
    recipe = _recipe(tmp_path, decoder_folder, teacher={"file": "long.md"})
    assert rendered(recipe).teacher["colours"].prompts[0].content == "{{ none }} red:"


def test_editors_know_files() -> None:
    import jsonschema

    words = tiny_recipe(Path("model"))
    chat = [{"role": "system", "content": {"file": "b.md"}}]
    words["contexts"]["colours"] |= {"teacher": {"file": "a.md"}, "student": chat}
    jsonschema.validate(words, json_schema())
