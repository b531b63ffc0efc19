-- What wrk runs: one request again and again, or COUNT routes in turn; its result as one line of JSON.
-- Arguments: the method, the file with the body or -, the number of routes or 0.

function init(args)
   wrk.method = args[1]
   if args[2] ~= "-" then
      local file = assert(io.open(args[2], "rb"))
      wrk.body = file:read("*a")
      file:close()
      wrk.headers["Content-Type"] = "application/json"
   end
   local count = tonumber(args[3])
   if count > 0 then
      local prepared, at = {}, 0
      for n = 0, count - 1 do
         prepared[n] = wrk.format("GET", "/service-" .. n .. "/orders/12345")
      end
      request = function()
         at = (at + 1) % count
         return prepared[at]
      end
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "microseconds": %d, "bytes": %d, "p50": %d, "p99": %d, "errors": ' ..
      '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
