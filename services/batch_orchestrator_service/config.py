"""Batches and the pipelines that process them: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="batch_orchestrator_service",
    database="huleedu_batch_orchestrator",
    port=5438,
)
