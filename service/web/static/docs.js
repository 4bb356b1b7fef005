// Tries the API out: sends a reader's GET with the session of this browser, and shows the answer.
// Loaded with `defer`; without it the page has no forms.
"use strict";

(() => {
  const MOST_BYTES = 256 * 1024;
  const HEADERS = [
    "Content-Type", "Content-Length", "Content-Disposition", "Cache-Control", "Link", "Retry-After", "WWW-Authenticate",
  ];
  const running = new WeakMap();

  function addressOf(form) {
    let path = form.getAttribute("action");
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (path.includes(`{${name}}`)) path = path.replace(`{${name}}`, () => encodeURIComponent(value));
      else if (value !== "") query.append(name, value);
    }
    return `${query}` ? `${path}?${query}` : path;
  }

  async function send(form) {
    running.get(form)?.abort();
    const request = new AbortController();
    running.set(form, request);
    const output = form.querySelector("output");
    output.replaceChildren(line("quiet", "Waiting …"));
    const address = addressOf(form);
    try {
      const began = performance.now();
      const answer = await fetch(address, { cache: "no-store", signal: request.signal });
      const milliseconds = Math.round(performance.now() - began);
      const body = await read(answer);
      output.replaceChildren(...shown(answer, milliseconds, body, form.closest("section").id));
    } catch (error) {
      if (error.name !== "AbortError") output.replaceChildren(line("notice", `No answer: ${error.message}`));
    } finally {
      request.abort(); // the rest of a long body
    }
  }

  // Return the text of a body, or its beginning; null if it is no text.
  async function read(answer) {
    if (!/^(text\/|application\/(problem\+)?json|message\/)/.test(answer.headers.get("Content-Type") ?? "")) return null;
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (let bytes = 0; bytes < MOST_BYTES; ) {
      const { done, value } = await reader.read();
      if (done) return { text: text + decoder.decode(), isWhole: true };
      bytes += value.length;
      text += decoder.decode(value, { stream: true });
    }
    return { text, isWhole: false };
  }

  function shown(answer, milliseconds, body, id) {
    const parts = [line(answer.ok ? "status ok" : "status", `${answer.status} ${answer.statusText} · ${milliseconds} ms`)];
    if (answer.status === 401) parts.push(link(`${document.querySelector("[data-sign-in]").href}%23${id}`, "Sign in to try it"));
    const address = new URL(answer.url);
    const told = HEADERS.filter((name) => answer.headers.has(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
    parts.push(block("headers", [`GET ${address.pathname}${address.search}`, ...told].join("\n")));
    if (body) parts.push(block("body", /json/.test(answer.headers.get("Content-Type")) ? indented(body.text) : body.text));
    if (!body?.isWhole) parts.push(link(answer.url, body ? "The rest is not shown: open all of it" : "Open or download it"));
    return parts;
  }

  // Indent JSON as it was sent: parsing it would round large numbers.
  function indented(json) {
    let depth = 0;
    let text = "";
    const newLine = () => `\n${"  ".repeat(depth)}`;
    for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"?|[[{]\s*[\]}]|[[\]{},:]|[^\s"[\]{},:]+/g)) {
      if (token === "{" || token === "[") { depth += 1; text += token + newLine(); }
      else if (token === "}" || token === "]") { depth -= 1; text += newLine() + token; }
      else if (token === ",") text += token + newLine();
      else text += token === ":" ? ": " : token.replace(/^([[{])\s+/, "$1");
    }
    return text;
  }

  function line(name, text) {
    return Object.assign(document.createElement("p"), { className: name, textContent: text });
  }

  function block(name, text) {
    return Object.assign(document.createElement("pre"), { className: name, textContent: text, tabIndex: 0 });
  }

  function link(href, text) {
    const anchor = Object.assign(document.createElement("a"), { href, textContent: text });
    const paragraph = document.createElement("p");
    paragraph.append(anchor);
    return paragraph;
  }

  for (const details of document.querySelectorAll("details.try")) {
    details.hidden = false;
    details.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      send(event.target);
    });
  }
})();
