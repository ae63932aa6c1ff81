"""A run behind an HTTP API: `app(model)` is the application, `serve(run)` runs it. Needs `pip
install 'amodal[serve]'`."""

from amodal.errors import AmodalError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise AmodalError(
        f"serving needs the package {error.name!r}: pip install 'amodal[serve]'"
    ) from None

from amodal.serve.api import app
from amodal.serve.limits import Limits, Refused
from amodal.serve.server import serve

__all__ = ["Limits", "Refused", "app", "serve"]
