"""Comparative judgement of essays: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="cj_assessment_service",
    database="huleedu_cj_assessment",
    port=5434,
)
