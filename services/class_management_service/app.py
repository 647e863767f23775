"""The web application: `uvicorn services.class_management_service.app:app`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.class_management_service import routes
from services.class_management_service.config import settings
from services.class_management_service.db import State, new_engine
from services.service_libs.database import current_environment

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    """Hold the engine while the application runs; it connects with the first request."""
    engine = new_engine(settings.DATABASE_URL)
    url = engine.url
    logger.info("%s: %s:%s/%s", current_environment(), url.host, url.port, url.database)
    yield {"engine": engine}
    await engine.dispose()


app = FastAPI(title="class_management", lifespan=lifespan)
app.include_router(routes.health)
app.include_router(routes.classes)
