"""Text statistics and student names found in essays: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="nlp_service",
    database="huleedu_nlp",
    port=5440,
)
