"""The state of gRPC's standard health service.

The server as a whole (service name "") serves as soon as it can answer a search, reranked or not: a broken model must
not take search down. ``sidecar.v1.RerankService`` serves only while reranking works: all models ready, the device
neither stuck nor lost, the threads that read texts not stuck, no policy's model failing.
"""

from grpc_health.v1 import health, health_pb2

RERANKING = "sidecar.v1.RerankService"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The state behind the standard health service."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def starting(self) -> None:
        """Report that nothing serves yet: the port is open, models are loading."""
        await self._set(_NOT_SERVING, _NOT_SERVING)

    async def started(self, *, reranking: bool) -> None:
        """Report that searches are served, and whether ``reranking`` works; call again when that changes."""
        await self._set(_SERVING, _SERVING if reranking else _NOT_SERVING)

    async def stopping(self) -> None:
        """Report that nothing serves any more; final."""
        await self.servicer.enter_graceful_shutdown()

    async def _set(self, server: int, reranking: int) -> None:
        await self.servicer.set("", server)
        await self.servicer.set(RERANKING, reranking)
