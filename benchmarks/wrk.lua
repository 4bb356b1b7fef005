-- Send each webhook of a prepared file once, then stop.
local webhooks, size

function init(arguments)
  webhooks = assert(io.open(arguments[1], "rb"))
  size = tonumber(arguments[2])
  webhooks:seek("set", tonumber(arguments[3]) * size)
end

function request()
  local bytes = webhooks:read(size)
  if bytes == nil then
    wrk.thread:stop()
    return "GET /none-left HTTP/1.1\r\nHost: holdfast.example\r\n\r\n"
  end
  return bytes
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
