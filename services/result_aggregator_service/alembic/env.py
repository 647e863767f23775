"""Migrations of the result_aggregator database."""

from services.result_aggregator_service.config import settings
from services.result_aggregator_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
