"""Uploaded files and their text: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="file_service",
    database="huleedu_file_service",
    port=5439,
)
