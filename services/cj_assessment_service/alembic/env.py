"""Migrations of the cj_assessment database."""

from services.cj_assessment_service.config import settings
from services.cj_assessment_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
