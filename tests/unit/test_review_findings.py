"""What is a finding of a review, and what is none."""

from pathlib import Path

import pytest

from huleedu_tasks.migrations.functions import has_downgrade
from huleedu_tasks.migrations.model_comparison import Compared
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.clones import LABEL_LENGTH, replay_name, template_name
from huleedu_tasks.postgres.model_objects import ModelObject
from huleedu_tasks.review.base_branch import BaseRevision, base_problems
from huleedu_tasks.review.model_differences import model_problems
from tests.support.values import service

UP = "def upgrade():\n    op.drop_table('a')\n"
ID = ModelObject("column", "note", "id", "integer NOT NULL")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (UP, False),
        (f"{UP}def downgrade():\n    pass\n", False),
        (f"{UP}def downgrade():\n    '''None.'''\n", False),
        (f"{UP}def downgrade():\n    raise NotImplementedError\n", False),
        (f"{UP}def downgrade():\n    op.create_table('a')\n", True),
        ("def upgrade():\n    pass\ndef downgrade():\n    pass\n", True),
        ("not Python(", True),
    ],
)
def test_a_downgrade_does_something_if_its_upgrade_does(
    tmp_path: Path, text: str, expected: bool
) -> None:
    path = tmp_path / "a1.py"
    path.write_text(text)
    assert has_downgrade(revision("a1", None, path)) is expected


@pytest.mark.parametrize(
    ("history", "models"),
    [
        # What only the history has.
        ({ID, ModelObject("default", "note", "id", "7")}, {ID}),
        ({ID, ModelObject("constraint", "note", "", "CHECK (id > 0)")}, {ID}),
        ({ID, ModelObject("enum", "state", "", "'a'")}, {ID}),
        # Two ways to number rows, and two names of the current time.
        (
            {ModelObject("column", "note", "id", f"{ID.definition} GENERATED ALWAYS AS IDENTITY")},
            {ID, ModelObject("default", "note", "id", "nextval('note_id_seq'::regclass)")},
        ),
        (
            {ID, ModelObject("default", "note", "id", "now()")},
            {ID, ModelObject("default", "note", "id", "CURRENT_TIMESTAMP")},
        ),
        # A table that the history does not have is seen by autogenerate.
        ({ID}, {ID, ModelObject("constraint", "other", "", "CHECK (true)")}),
    ],
)
def test_models_agree_with_a_history_that_has_more(
    history: set[ModelObject], models: set[ModelObject]
) -> None:
    compared = Compared(
        operations=(), history=frozenset(history), models=frozenset(models), problem=""
    )
    assert not list(model_problems("nlp", compared))


def test_models_that_cannot_be_created_are_no_error() -> None:
    compared = Compared(operations=(), history=frozenset({ID}), models=None, problem="no citext")
    (problem,) = model_problems("nlp", compared)
    assert problem.code == "models-not-compared"
    assert problem.level == "INFO"


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        ({"a": None}, {"a": None, "b": "a"}, []),
        ({"a": None, "b": "a"}, {"a": None}, []),
        ({"a": None, "b": "a"}, {"a": None, "b": "a", "c": "b"}, []),
        ({"a": None, "b": "a"}, {"a": None, "c": "a", "d": "c"}, ["base-not-followed"]),
        ({"a": None}, {"a": None, "z": None, "m": "a"}, []),
        ({}, {"a": None}, []),
    ],
)
def test_a_branch_follows_the_head_of_its_base(
    tmp_path: Path, base: dict[str, str | None], own: dict[str, str | None], expected: list[str]
) -> None:
    path = tmp_path / "same.py"
    path.write_text("")
    known = {
        name: BaseRevision(revision=revision(name, parent, path), digest="-")
        for name, parent in base.items()
    }
    history = History(
        revisions={name: revision(name, parent, path) for name, parent in own.items()}
    )
    found = base_problems(service("nlp"), history, known, "main", tmp_path)
    assert [problem.code for problem in found] == expected


@pytest.mark.parametrize("database", ["huleedu_nlp", "x" * 63, "ä" * 31])
def test_the_template_of_a_replay_has_a_name_of_its_own(database: str) -> None:
    name = replay_name(database, "0" * LABEL_LENGTH)
    assert len(template_name(name, "1" * 12).encode()) <= 63
    assert template_name(name, "1" * 12).startswith(name)


def revision(name: str, parent: str | None, path: Path) -> Revision:
    """Return a revision."""
    parents = (parent,) if parent else ()
    return Revision(id=name, parents=parents, depends_on=(), message="", path=path)
