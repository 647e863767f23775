"""Migrations of the spellchecker database."""

from services.service_libs.migrations import run_migrations
from services.spellchecker_service.config import settings
from services.spellchecker_service.models_db import Base

run_migrations(Base.metadata, settings)
