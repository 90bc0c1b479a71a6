"""The routes for whoever runs the server: load what is in a bundle's folder, or go back to the version before."""

import asyncio

from fastapi.responses import JSONResponse

from batcher import Closed
from settings import API_KEY
from text_cls.cli import UserError
from text_cls.language import N_, tr

ADMIN = ("/admin/reload", "/admin/rollback")
NO_KEY = N_("these routes need an API key: start the server with {variable} set, and send that key")


def add_admin(app, state, answers, error_response):
    """Registers the routes.

    Args:
        answers, error_response: of `application`.
    """

    async def change(bundle, function):
        """The response to a request to change a bundle, which may be named."""
        service = state.service
        if not service.settings.api_key:
            return error_response(403, tr(NO_KEY, variable=API_KEY))
        names = ", ".join(service.bundles)
        if bundle is None and len(service.bundles) > 1:
            return error_response(422, tr("say which bundle: ?bundle=NAME, one of {names}", names=names))
        served = service.first if bundle is None else service.bundles.get(bundle)
        if served is None:
            return error_response(422, tr("bundle: no bundle has this name; known are {names}", names=names))
        try:
            if service.draining:
                raise Closed
            changed = await asyncio.to_thread(function, served)
        except UserError as error:
            return error_response(409, str(error))
        except Closed as error:
            return error_response(503, str(error), {"Retry-After": str(error.retry_after)})
        return JSONResponse({"changed": changed, **served.describe_versions()})

    @app.post(
        ADMIN[0],
        summary=N_("Load what is in the bundle's folder"),
        responses=answers(403, 409, 422, 503),
        tags=["admin"],
    )
    async def reload(bundle: str | None = None) -> dict[str, str | bool | None]:
        return await change(bundle, lambda served: served.reload())

    @app.post(
        ADMIN[1], summary=N_("Go back to the version before"), responses=answers(403, 409, 422, 503), tags=["admin"]
    )
    async def rollback(bundle: str | None = None) -> dict[str, str | bool | None]:
        return await change(bundle, lambda served: served.rollback() or True)
