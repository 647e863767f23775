"""Migrations of the file_service database."""

from services.file_service.config import settings
from services.file_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
