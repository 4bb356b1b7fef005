"""The stand-in's CDN, `pNN.zdusercontent.com`: temporary addresses that refuse credentials."""

import asyncio

from aiohttp import web

from service.local.zendesk.access import answer_of
from service.local.zendesk.state import Fault, StandInState, TemporaryAddress, url_name

_STATE = web.AppKey("state", StandInState)
_CHUNK_BYTES = 64 * 1024


def cdn(state: StandInState) -> web.Application:
    """Return the CDN's application."""
    app = web.Application()
    app[_STATE] = state
    app.router.add_get("/{name:(?s:.*)}", _download, allow_head=False)
    return app


async def _download(request: web.Request) -> web.StreamResponse:
    state = request.app[_STATE]
    if "Authorization" in request.headers:
        state.cdn_authorizations.append(request.headers["Authorization"])
        return web.Response(status=403, text="Forbidden")
    # The raw query: the real CDN's signature fails if a client escapes it again.
    address = state.find_address(request.raw_path.partition("?")[2])
    if address is None:
        return web.Response(status=404, text="Not found")
    if address.fault.at_cdn and (scripted := await answer_of(address.fault)):
        return scripted
    return await _stream(request, address)


async def _stream(request: web.Request, address: TemporaryAddress) -> web.StreamResponse:
    file, fault = address.file, address.fault
    name, content, content_type = file.name, file.content, file.content_type
    if fault.redacted:
        name, content, content_type = "redacted.txt", b"", "text/plain"
    response = web.StreamResponse(
        headers={
            "Content-Type": content_type,
            "Content-Disposition": f"attachment; filename*=UTF-8''{url_name(name)}",
        }
    )
    if not fault.chunked:
        response.content_length = len(content)
    await response.prepare(request)
    if not await _write(request, response, content, fault):
        return response
    await response.write_eof()
    file.downloads += 1
    return response


async def _write(request: web.Request, response: web.StreamResponse, content: bytes, fault: Fault) -> bool:
    """Write the content as the fault says; return False if the connection was reset."""
    sent = 0
    while True:
        if sent == fault.reset_after and request.transport:
            request.transport.abort()
            return False
        if sent == fault.pause_after:
            fault.paused.set()
            await fault.resume.wait()
        if sent >= len(content):
            return True
        end = _end_of_chunk(sent, len(content), fault)
        if fault.bytes_per_second:
            await asyncio.sleep((end - sent) / fault.bytes_per_second)
        await response.write(content[sent:end])
        sent = end


def _end_of_chunk(sent: int, size: int, fault: Fault) -> int:
    step = _CHUNK_BYTES
    if fault.bytes_per_second:  # ten small chunks a second
        step = max(1, min(step, int(fault.bytes_per_second / 10)))
    stops = [at for at in (fault.reset_after, fault.pause_after) if at is not None and at > sent]
    return min(sent + step, size, *stops)
