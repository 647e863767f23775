"""Essays and batches on their way through the platform: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="essay_lifecycle_service",
    database="huleedu_essay_lifecycle",
    port=5433,
)
