"""Classes, students and whose essay is whose: where the database is."""

from services.service_libs.database import DatabaseSettings

settings = DatabaseSettings(
    service="class_management_service",
    database="huleedu_class_management",
    port=5435,
)
