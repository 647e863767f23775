"""The one story all seeds tell: twelve students of Engelska 7 hand in an essay that is then judged.

Every service knows the same people, files and essays under the identifiers given here; what only
one service knows is in that service's seed.
"""

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID


def key(kind: str, number: int) -> UUID:
    """An identifier recognised at sight in any of the databases; `kind` is eight hex digits."""
    return UUID(f"{kind}-7e57-4000-8000-{number:012d}")


def at(clock: str, day: str = "2026-11-16") -> datetime:
    """A moment of the story in UTC, unless stated otherwise on the day the essays came in."""
    return datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=UTC)


class Student(NamedTuple):
    number: int
    first_name: str
    last_name: str
    mailbox: str

    @property
    def id(self) -> UUID:
        return key("57de4700", self.number)

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"

    @property
    def email(self) -> str:
        return f"{self.mailbox}@fjallangen.example"


class Essay(NamedTuple):
    """An essay and what several services know of it; students and essays share their numbers."""

    number: int
    words: int
    corrections: int
    match_confidence: float
    strength: float
    rank: int
    grade: str
    grade_confidence: float

    @property
    def id(self) -> UUID:
        return key("e55a4000", self.number)

    @property
    def file_id(self) -> UUID:
        return key("f11e0000", self.number)

    @property
    def original_text_id(self) -> UUID:
        return key("7e470000", self.number)

    @property
    def student(self) -> Student:
        return STUDENTS[self.number - 1]

    @property
    def filename(self) -> str:
        return f"eng7_{self.student.mailbox.replace('.', '_')}.docx"


TEACHER_ID = key("7eac4000", 1)
CLASS_ID = key("c1a55000", 1)
BATCH_ID = key("ba7c4000", 1)

COURSE_CODE = "ENG7"
TITLE = "Argumentative essay: Should homework be abolished?"
INSTRUCTIONS = (
    "Write an argumentative essay of 500 to 800 words. Take a clear position, support it with at"
    " least three arguments, and answer one objection."
)

REGISTERED = at("08:05:00")
UPLOADED = at("08:12:00")
MATCHED = at("08:15:30")
AUTHORS_CONFIRMED = at("12:40:00")
SPELLCHECKED = at("12:52:10")
ANALYSED = at("12:55:45")
JUDGED = at("13:20:20")
READY = at("13:21:00")

STUDENTS = (
    Student(1, "Alva", "Bergström", "alva.bergstrom"),
    Student(2, "Amir", "Haddad", "amir.haddad"),
    Student(3, "Ebba", "Sjöberg", "ebba.sjoberg"),
    Student(4, "Elias", "Nordin", "elias.nordin"),
    Student(5, "Fatima", "Yusuf", "fatima.yusuf"),
    Student(6, "Hugo", "Lindgren", "hugo.lindgren"),
    Student(7, "Ines", "Åkesson", "ines.akesson"),
    Student(8, "Leo", "Johansson", "leo.johansson"),
    Student(9, "Maja", "Öberg", "maja.oberg"),
    Student(10, "Nils", "Ekström", "nils.ekstrom"),
    Student(11, "Saga", "Wallin", "saga.wallin"),
    Student(12, "Viktor", "Holm", "viktor.holm"),
)

# Number, words, corrections, confidence of the match; strength, rank, grade and its confidence.
ESSAYS = (
    Essay(1, 742, 2, 0.980, 2.814, 2, "A", 0.631),
    Essay(2, 655, 3, 0.980, -0.245, 7, "C", 0.605),
    Essay(3, 811, 1, 0.980, 3.511, 1, "A", 0.923),
    Essay(4, 603, 4, 0.742, -0.600, 8, "D", 0.663),
    Essay(5, 721, 2, 0.995, 1.592, 4, "B", 0.605),
    Essay(6, 548, 5, 0.980, -2.182, 11, "E", 0.712),
    Essay(7, 684, 2, 0.980, 0.065, 6, "C", 0.605),
    Essay(8, 402, 6, 0.995, -3.292, 12, "F", 0.641),
    Essay(9, 617, 3, 0.861, -0.938, 9, "D", 0.712),
    Essay(10, 698, 2, 0.980, 0.873, 5, "B", 0.581),
    Essay(11, 735, 1, 0.980, 1.974, 3, "B", 0.605),
    Essay(12, 571, 5, 0.980, -1.786, 10, "D", 0.599),
)

# Below this the teacher decided whose essay it is; above, the match stands by itself.
TRUSTED_MATCH = 0.9
