"""Migrations of the essay_lifecycle database."""

from services.essay_lifecycle_service.config import settings
from services.essay_lifecycle_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
