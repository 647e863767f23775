"""Results collected from every service: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="result_aggregator_service",
    database="huleedu_result_aggregator",
    port=5436,
)
