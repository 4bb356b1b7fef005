// What the dashboard does in a browser beyond reading: keeps itself up to date, and writes times as the reader's.
// Loaded with `defer`, after htmx and idiomorph; without it every page can still be read, and every button works.
"use strict";

(() => {
  const place = document.querySelector("[data-live]")?.dataset.live;
  const pulse = document.getElementById("pulse");
  const AGAIN = 3000; // milliseconds

  // A stream takes one of the six connections that a browser has for a host: a page that nobody sees lets go of it.
  let stream = null;
  let timer = 0;

  function open() {
    if (!place || stream || document.hidden) return;
    stream = new EventSource(place);
    stream.addEventListener("open", () => tell("live", "Live"));
    stream.addEventListener("overview", (event) => {
      Idiomorph.morph(document.getElementById("overview"), event.data, { morphStyle: "innerHTML", callbacks });
      localize();
    });
    stream.addEventListener("changed", () => htmx.trigger(document.body, "holdfast:changed"));
    stream.addEventListener("error", () => {
      tell("lost", "Reconnecting …");
      if (stream?.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(knock, AGAIN);
      }
    });
  }

  function close() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  // A session that is over leads to another page; a server that is away does not answer.
  async function knock() {
    try {
      const answer = await fetch(place, { method: "HEAD", redirect: "manual", headers: { Accept: "text/html" } });
      if (answer.type === "opaqueredirect" || answer.status === 401) return location.reload();
    } catch { /* it is still away */ }
    open();
  }

  function tell(state, text) {
    pulse.hidden = false;
    pulse.className = `pulse ${state}`;
    if (pulse.textContent !== text) pulse.textContent = text;
  }

  // What the reader has opened stays open.
  const callbacks = {
    beforeAttributeUpdated: (name, element) => !(name === "open" && element instanceof HTMLDetailsElement),
  };
  Object.assign(Idiomorph.defaults.callbacks, callbacks);

  const stamp = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

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

  function words(seconds) {
    if (seconds < 1) return "just now";
    for (const [unit, length, smaller, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
      if (seconds < length) continue;
      const rest = Math.floor((seconds % length) / part);
      return `${Math.floor(seconds / length)} ${unit}${rest ? ` ${rest} ${smaller}` : ""} ago`;
    }
    return `${Math.floor(seconds)} s ago`;
  }

  // How old something is goes on by the server's clock, whatever this one shows.
  const served = new Date(document.body.dataset.now);
  const began = performance.now();
  function grow() {
    const now = served.getTime() + performance.now() - began;
    for (const element of document.querySelectorAll("time[data-age]")) {
      element.textContent = words((now - new Date(element.dateTime)) / 1000);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  document.addEventListener("htmx:afterSettle", localize);
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (event.detail.xhr.status !== 401) return;
    event.preventDefault();
    location.reload(); // leads to where one signs in
  });
  for (const trouble of ["htmx:sendError", "htmx:responseError"]) {
    document.addEventListener(trouble, () => tell("lost", "Not up to date"));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    const search = document.querySelector("[data-search]");
    if (search) search.focus();
    else location.assign(`${document.body.dataset.emails}#q`);
  });

  // A notice is about what was just done: a page that is loaded again does not say it again.
  const address = new URL(location.href);
  if (address.searchParams.has("notice")) {
    address.searchParams.delete("notice");
    history.replaceState(history.state, "", address);
  }

  // On a narrow screen. Without scrollIntoView, behind which the Tab key would begin in Chromium.
  const current = document.querySelector("nav [aria-current]");
  if (current) current.closest("nav").scrollLeft = current.offsetLeft - current.closest("nav").offsetLeft;
  localize();
  setInterval(grow, 1000);
  open();
  if (location.hash === "#q") document.querySelector("[data-search]")?.focus();
})();
