// Keeps the dashboard up to date, and shows times in the reader's time zone.
// Loaded with `defer`, after htmx and idiomorph; without it all pages and buttons still work.
"use strict";

(() => {
  const streamPath = document.querySelector("[data-live]")?.dataset.live;
  const pulse = document.getElementById("pulse");
  const RECONNECT_MS = 3000;

  // A stream takes one of the browser's six connections to a host: a hidden page closes it.
  let stream = null;
  let timer = 0;

  function open() {
    if (!streamPath || stream || document.hidden) return;
    stream = new EventSource(streamPath);
    stream.addEventListener("open", () => showState("live", "Live"));
    stream.addEventListener("overview", (event) => {
      Idiomorph.morph(document.getElementById("overview"), event.data, { morphStyle: "innerHTML", callbacks });
      localize();
    });
    stream.addEventListener("changed", () => htmx.trigger(document.body, "holdfast:changed"));
    stream.addEventListener("error", () => {
      showState("lost", "Reconnecting …");
      if (stream?.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(reconnect, RECONNECT_MS);
      }
    });
  }

  function close() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  // An ended session redirects to the sign-in page; a server that is down does not answer.
  async function reconnect() {
    try {
      const answer = await fetch(streamPath, { method: "HEAD", redirect: "manual", headers: { Accept: "text/html" } });
      if (answer.type === "opaqueredirect" || answer.status === 401) return location.reload();
    } catch { /* the server is still down */ }
    open();
  }

  function showState(state, text) {
    pulse.hidden = false;
    pulse.className = `pulse ${state}`;
    if (pulse.textContent !== text) pulse.textContent = text;
  }

  // Details that the reader opened stay open, selected rows stay selected, and a message keeps its height.
  const callbacks = {
    beforeAttributeUpdated: (name, element) =>
      !(name === "open" && element instanceof HTMLDetailsElement) && !(name === "checked" && element instanceof HTMLInputElement) && !(name === "style" && element instanceof HTMLIFrameElement),
  };
  Object.assign(Idiomorph.defaults.callbacks, callbacks);

  // The zone that the reader chose, or the browser's; the server hears of that one, for what it writes itself.
  const cookie = (name) => document.cookie.split("; ").find((each) => each.startsWith(`${name}=`))?.slice(name.length + 1).replaceAll('"', "");
  const told = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const chosen = cookie("holdfast_zone");
  const zone = chosen && !isZone(chosen) ? "" : chosen || told;
  const path = document.body.dataset.emails.slice(0, -"/emails".length) || "/";
  const secure = location.protocol === "https:" ? "; secure" : "";
  if (told && cookie("holdfast_browser_zone") !== told) document.cookie = `holdfast_browser_zone=${told}; path=${path}; samesite=lax${secure}`;
  const stamp = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", timeZone: zone || undefined });
  const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", timeZone: zone || undefined });

  // The server may know a zone that this browser does not: then the times stay as the server wrote them.
  function isZone(name) {
    try {
      return Boolean(new Intl.DateTimeFormat(undefined, { timeZone: name }));
    } catch {
      return false;
    }
  }

  function localize() {
    if (!zone || zone === "UTC") return;
    for (const element of document.querySelectorAll("time[data-stamp]")) {
      element.textContent = stamp.format(new Date(element.dateTime));
    }
    for (const element of document.querySelectorAll("time[data-age]")) {
      element.title = stamp.format(new Date(element.dateTime));
    }
    for (const element of document.querySelectorAll("[data-hour]")) {
      element.textContent = hour.format(new Date(element.dataset.hour));
    }
    for (const element of document.querySelectorAll("[data-zone]")) element.textContent = zone;
  }

  function age(seconds) {
    if (seconds < 1) return "just now";
    for (const [unit, length, smaller, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
      if (seconds < length) continue;
      const rest = Math.floor((seconds % length) / part);
      return `${Math.floor(seconds / length)} ${unit}${rest ? ` ${rest} ${smaller}` : ""} ago`;
    }
    return `${Math.floor(seconds)} s ago`;
  }

  // A message is shown in its whole height, up to a limit; no script runs in its frame, so it is measured from here.
  const MOST_HEIGHT = 6000;
  const MARGINS = 34;
  const watched = new WeakSet();

  function fit(frame) {
    const height = frame.contentDocument?.querySelector("body")?.scrollHeight;
    if (height) frame.style.height = `${Math.min(MOST_HEIGHT, height + MARGINS)}px`;
  }

  function fitAll() {
    for (const frame of document.querySelectorAll("iframe[data-fits]")) {
      if (!watched.has(frame)) frame.addEventListener("load", () => fit(frame));
      watched.add(frame);
      fit(frame);
    }
  }

  // Ages follow the server's clock, in case the browser's is wrong.
  const served = new Date(document.body.dataset.now);
  const began = performance.now();
  function updateAges() {
    const now = served.getTime() + performance.now() - began;
    for (const element of document.querySelectorAll("time[data-age]")) {
      element.textContent = age((now - new Date(element.dateTime)) / 1000);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  document.addEventListener("htmx:afterSettle", () => { localize(); fitAll(); });
  window.addEventListener("resize", fitAll);
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (event.detail.xhr.status !== 401) return;
    event.preventDefault();
    location.reload(); // redirects to the sign-in page
  });
  for (const failure of ["htmx:sendError", "htmx:responseError"]) {
    document.addEventListener(failure, () => showState("lost", "Not up to date"));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    const search = document.querySelector("[data-search]");
    if (search) search.focus();
    else location.assign(`${document.body.dataset.emails}#q`);
  });

  // A page that was opened from a list has links to the ones before and after it there. The tab keeps the list's addresses.
  const LIST = "holdfast.list";

  function keepList(event) {
    const row = event.target.closest?.("a.row");
    if (!row) return;
    const paths = [...new Set([...document.querySelectorAll("a.row")].map((link) => link.pathname))];
    sessionStorage.setItem(LIST, JSON.stringify({ address: location.pathname + location.search, paths }));
  }

  function linkAround() {
    const place = document.querySelector("[data-around]");
    const list = JSON.parse(sessionStorage.getItem(LIST) ?? "null");
    const at = list ? list.paths.indexOf(location.pathname) : -1;
    if (!place || at < 0) return;
    const link = (path, text, rel) => path && Object.assign(document.createElement("a"), { href: path, textContent: text, rel });
    const count = Object.assign(document.createElement("a"), { href: list.address, textContent: `${at + 1} of ${list.paths.length} in the list` });
    const links = [link(list.paths[at - 1], "‹ Previous", "prev"), count, link(list.paths[at + 1], "Next ›", "next")];
    place.replaceChildren(...links.filter(Boolean));
  }

  document.addEventListener("click", keepList);
  document.addEventListener("auxclick", keepList);
  document.addEventListener("htmx:afterSettle", linkAround);
  linkAround();

  // A notice is about the last action: drop it from the address, so that a reload does not repeat it.
  const address = new URL(location.href);
  if (address.searchParams.has("notice")) {
    address.searchParams.delete("notice");
    history.replaceState(history.state, "", address);
  }

  localize();
  fitAll();
  setInterval(updateAges, 1000);
  open();
  if (location.hash === "#q") document.querySelector("[data-search]")?.focus();
})();
