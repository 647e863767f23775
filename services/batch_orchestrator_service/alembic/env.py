"""Migrations of the batch_orchestrator database."""

from services.batch_orchestrator_service.config import settings
from services.batch_orchestrator_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
