"""`unprompt init` and `unprompt distill`: from a prompt to a recipe, a student and a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import byte_tokenizer, decoder
from unprompt.messages import UserError
from unprompt.recipe import Recipe, load
from unprompt.tools import starter
from unprompt.tools.starter import Wanted, measure

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLACE = {"role": "user", "content": "{{ text }}"}


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    decoder(eos_token_id=list(range(200, 235))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a prompt and twelve inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.md").write_text("Be kind.\n\n- Say {} to nobody.\n")
    rows = [json.dumps({"id": str(n), "text": f"text {n}"}) for n in range(12)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    return tmp_path


def _made(desk: Path, prompt: str, model: Path, inputs: str = "in.jsonl") -> Recipe:
    out = desk / "recipe.yaml"
    out.unlink(missing_ok=True)
    starter.write(Wanted(Path(prompt), str(model), None, Path(inputs), False), out)
    return load(out)


def _sides(recipe: Recipe) -> tuple[Any, Any]:
    words = recipe.model_dump(mode="json")["contexts"]["main"]
    return words["teacher"], words["student"]


def test_a_chat_models_prompt_is_the_system_message(desk: Path, chat_folder: Path) -> None:
    teacher, student = _sides(_made(desk, "prompt.md", chat_folder))
    text = (desk / "prompt.md").read_text()
    assert teacher == [{"role": "system", "content": text}, PLACE]
    assert student == [PLACE]
    written = (desk / "recipe.yaml").read_text()
    assert 'content: {file: "prompt.md"}' in written
    assert written.startswith("# yaml-language-server: $schema=file://")
    assert yaml.safe_load(written)["evaluate"] == {"hold_out": 0.2, "metrics": []}


@pytest.mark.parametrize("place", ["{{ text }}", "{text}", "<input>"])
def test_a_place_makes_it_the_users_message(place: str, desk: Path, chat_folder: Path) -> None:
    (desk / "p.md").write_text(f"Sort it.\n\nMessage: {place}\nTopic:")
    teacher, student = _sides(_made(desk, "p.md", chat_folder))
    assert teacher[0]["content"].rstrip() == "Sort it.\n\nMessage: {{ text }}\nTopic:"
    assert len(teacher) == 1
    assert student == [PLACE]


def test_braces_of_another_kind_stay_as_they_are(desk: Path, chat_folder: Path) -> None:
    (desk / "p.md").write_text("Write {{#each}} as it is.\nAlways.")
    recipe = _made(desk, "p.md", chat_folder)
    teacher = recipe.contexts["main"].teacher
    assert teacher
    assert "{% raw %}" in str(teacher)


def test_a_list_of_messages_is_messages(desk: Path, chat_folder: Path) -> None:
    shots = [{"role": "system", "content": "S\nT"}, {"role": "user", "content": "a"}]
    shots.append({"role": "assistant", "content": "b"})
    (desk / "p.json").write_text(json.dumps(shots))
    teacher, student = _sides(_made(desk, "p.json", chat_folder))
    assert [message["content"].strip() for message in teacher] == ["S\nT", "a", "b", "{{ text }}"]
    assert student == [PLACE]
    (desk / "q.json").write_text(json.dumps([*shots, {"role": "user", "content": "Say {text}"}]))
    teacher, _ = _sides(_made(desk, "q.json", chat_folder))
    assert teacher[-1]["content"] == "Say {{ text }}"


def test_a_model_without_a_chat_template_reads_text(desk: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    decoder().save_pretrained(desk / "plain")
    tokenizer.save_pretrained(desk / "plain")
    teacher, student = _sides(_made(desk, "prompt.md", desk / "plain"))
    assert teacher.rstrip().endswith("nobody.\n\n{{ text }}")
    assert student == "{{ text }}"


def test_the_inputs_field_stands_in_the_prompt(desk: Path, chat_folder: Path) -> None:
    (desk / "q.csv").write_text("id,question\n1,why\n2,how\n")
    _, student = _sides(_made(desk, "prompt.md", chat_folder, "q.csv"))
    assert student == [{"role": "user", "content": "{{ question }}"}]


def test_without_inputs_the_teacher_writes_them(desk: Path) -> None:
    starter.write(Wanted(Path("prompt.md")), desk / "recipe.yaml")
    words = yaml.safe_load((desk / "recipe.yaml").read_text())
    assert words["contexts"]["main"]["inputs"] == {"from_prompt": {"count": 100}}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"prompt": Path("none.md")}, "no such prompt file"),
        ({"teacher": "http://localhost:8000/v1"}, "which of the server's models"),
        ({"prompt": Path("two.md")}, "several places"),
        ({"prompt": Path("one.json")}, "no list of messages"),
        ({"prompt": Path("open.json")}, "nothing in it says where the input stands"),
        ({"inputs": Path("in.jsonl"), "count": 9}, "leave it out beside --inputs"),
        ({"inputs": Path("none.jsonl")}, "as seen from here"),
    ],
)
def test_what_is_refused(wanted: dict[str, Any], said: str, desk: Path) -> None:
    (desk / "two.md").write_text("{a} and {b}")
    (desk / "one.json").write_text("{}")
    (desk / "open.json").write_text('[{"role": "user", "content": "x"}]')
    with pytest.raises(UserError, match=said):
        starter.write(replace(Wanted(Path("prompt.md")), **wanted), desk / "recipe.yaml")
    assert not (desk / "recipe.yaml").exists()


def test_the_length_of_answers_is_measured(desk: Path, chat_folder: Path) -> None:
    wanted = Wanted(Path("prompt.md"), str(chat_folder), None, Path("in.jsonl"))
    said = starter.write(wanted, desk / "recipe.yaml")
    tokens = load(desk / "recipe.yaml").sampling.max_new_tokens
    assert any(f"{tokens} is a quarter more" in line for line in said)
    assert tokens % 16 == 0
    assert tokens < 256


@pytest.mark.parametrize(
    ("lengths", "tokens", "told"),
    [
        ([5, 9, 12, 30, 40, 41, 64, None], 80, "7 of 8 answers have at most 64 tokens"),
        ([5, 9, 12, 30, 40, 41, 64, 100], 80, "7 of 8 answers have at most 64 tokens"),
        ([5, 9, 12, 30, 40, 41, None, None], 200, "2 of 8 answers are longer than 200 tokens"),
        ([3, None], 200, "1 of 2 answers are longer than 200 tokens"),
        ([3, 190], 200, "2 of 2 answers have at most 190 tokens"),
    ],
)
def test_one_answer_in_eight_may_ramble(lengths: list[int | None], tokens: int, told: str) -> None:
    found = measure.fitting(lengths, 200)
    assert found.tokens == tokens
    assert found.told.startswith(told)
    assert found.cut == ("longer than" in told)


def test_answers_that_find_no_end_are_learned_as_far_as_they_go(
    desk: Path, chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_MOST_ON_PROCESSORS", 2)
    wanted = Wanted(Path("prompt.md"), str(chat_folder), None, Path("in.jsonl"))
    said = starter.write(wanted, desk / "recipe.yaml")
    recipe = load(desk / "recipe.yaml")
    assert recipe.sampling.max_new_tokens == 2
    assert next(iter(recipe.plan.values())).lessons.max_cut == 1
    assert any("longer than 2 tokens, and learned as far as that" in line for line in said)


def test_one_command_from_a_prompt_to_a_report(
    desk: Path, chat_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = Wanted(Path("prompt.md"), str(chat_folder), None, Path("in.jsonl"))
    few = ["train.epochs=1", "labels.draws=4", "report.instructions=0", "lessons.max_failed=1"]
    done = starter.distill(wanted, None, few)
    assert done.folder == Path("distilled/prompt/run")
    assert (done.folder / "report.html").is_file()
    assert done.report["verdict"]["verdict"]
    assert (desk / "distilled/prompt/recipe.yaml").is_file()
    said = capsys.readouterr().err
    assert "step 1 of 2" in said
    assert "step 2 of 2" in said
    assert starter.distill(Wanted(Path("prompt.md")), None, few).unchanged


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("model", "other"),
        ("teacher", "chat"),
        ("teacher", "http://localhost:1/v1#m"),
        ("inputs", Path("in2.jsonl")),
        ("writer", "chat"),
        ("count", 12),
    ],
)
def test_what_is_named_again_has_to_be_the_same(
    flag: str, value: Any, desk: Path, chat_folder: Path
) -> None:
    wanted = Wanted(Path("prompt.md"), str(chat_folder), None, Path("in.jsonl"), False)
    starter.write(wanted, desk / "made" / "recipe.yaml", "distill")
    (desk / "made" / "run").write_text("in the way: it would begin")
    with pytest.raises(UserError, match=f"there already, and --{flag} says something else"):
        starter.distill(replace(wanted, **{flag: value}), desk / "made", [])
    for same in (wanted, Wanted(Path("prompt.md"))):
        with pytest.raises(UserError, match="File exists"):
            starter.distill(same, desk / "made", [])


@pytest.mark.parametrize("other", ["b/prompt.md", "typo.md"])
def test_another_file_is_not_taken_for_the_first(desk: Path, chat_folder: Path, other: str) -> None:
    """Its recipe names the file, which people may go on mending; another file is another prompt."""
    for folder in ("a", "b"):
        (desk / folder).mkdir()
        (desk / folder / "prompt.md").write_text(f"You are the assistant of shop {folder}.")
    wanted = Wanted(Path("a/prompt.md"), str(chat_folder), None, Path("in.jsonl"), False)
    starter.write(wanted, desk / "made" / "recipe.yaml", "distill")
    with pytest.raises(UserError, match=r"made of another prompt|no such prompt"):
        starter.distill(Wanted(Path(other)), desk / "made", [])


def test_another_prompt_is_not_taken_for_the_first(desk: Path, chat_folder: Path) -> None:
    (desk / "p.md").write_text("Say {text}!")
    folder = desk / "distilled"
    recipe = folder / "recipe.yaml"
    wanted = Wanted(Path("p.md"), str(chat_folder), None, Path("in.jsonl"), False)
    starter.write(wanted, recipe, "distill")
    (desk / "p.md").write_text("Shout {text}!")
    with pytest.raises(UserError, match="made of another prompt"):
        starter.distill(wanted, folder, [])
