"""Seed the uploaded files, the text extracted from them, and one upload that was rejected."""

from datetime import timedelta
from hashlib import sha256

import asyncpg
from huleedu_rows import insert, published_event
from huleedu_story import BATCH_ID, ESSAYS, TEACHER_ID, UPLOADED, Essay, key

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

# Exported before it was written; the student handed in another file.
EMPTY_UPLOAD = {
    "id": key("f11e0000", 13),
    "batch_id": BATCH_ID,
    "uploaded_by": TEACHER_ID,
    "filename": "namnlös.txt",
    "content_type": "text/plain",
    "size_bytes": 0,
    "sha256": sha256(b"").hexdigest(),
    "status": "rejected",
    "storage_id": None,
    "received_at": UPLOADED,
}

REJECTION = {
    "file_id": EMPTY_UPLOAD["id"],
    "code": "empty",
    "detail": "The file is empty.",
    "rejected_at": UPLOADED + timedelta(seconds=1),
}


EVENT = published_event(
    key("e4e70000", 2),
    "file.batch_received",
    aggregate_id=BATCH_ID,
    payload={"stored": len(ESSAYS), "rejected": 1},
    occurred_at=UPLOADED + timedelta(minutes=1),
)


async def seed(connection: asyncpg.Connection) -> None:
    uploads = [_upload(essay) for essay in ESSAYS]
    await insert(connection, "file_uploads", [*uploads, EMPTY_UPLOAD])
    await insert(connection, "extracted_texts", [_text(essay) for essay in ESSAYS])
    await insert(connection, "upload_rejections", [REJECTION])
    await insert(connection, "event_outbox", [EVENT])


def _upload(essay: Essay) -> dict[str, object]:
    return {
        "id": essay.file_id,
        "batch_id": BATCH_ID,
        "uploaded_by": TEACHER_ID,
        "filename": essay.filename,
        "content_type": DOCX,
        "size_bytes": 11_264 + 6 * essay.words,
        # There is no file behind the seed: its name stands in for its content.
        "sha256": sha256(essay.filename.encode()).hexdigest(),
        "status": "stored",
        "storage_id": key("b10b0000", essay.number),
        "received_at": UPLOADED + timedelta(seconds=essay.number),
    }


def _text(essay: Essay) -> dict[str, object]:
    return {
        "file_id": essay.file_id,
        "storage_id": essay.original_text_id,
        "characters": 6 * essay.words,
        "extractor": "python-docx",
        "extracted_at": UPLOADED + timedelta(seconds=20 + essay.number),
    }
