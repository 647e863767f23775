"""Spelling corrections: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="spellchecker_service",
    database="huleedu_spellchecker",
    port=5437,
)
