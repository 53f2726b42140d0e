-- Writes wrk's exact figures and its whole latency histogram, after the run.
--
--   UPLAB_LOAD_OUT=DIR wrk --latency -s done.lua URL
--
-- DIR/wrk-histogram.u4  one pair (value_us, count) of little-endian uint32 per non-empty bucket,
--                       ascending by value
-- DIR/wrk-summary.json  wrk's summary, in integers where wrk has integers; it is written last, so
--                       that its presence means that the histogram is complete
--
-- Only done() is defined. wrk asks for the globals request, response and delay and leaves its static
-- request path only if it finds one of them (src/script.c, script_is_static and its neighbours), so
-- this file cannot slow down what is being measured. Whatever fails here becomes one line on stderr:
-- an error that escaped would end wrk with a panic.

local ffi = require("ffi")

-- src/stats.h of wrk 4.0 to 4.2
ffi.cdef[[
typedef struct {
    uint64_t count;
    uint64_t limit;
    uint64_t min;
    uint64_t max;
    uint64_t data[];
} uplab_wrk_stats;
]]

local U4_LIMIT = 4294967296

local function write_whole(path, content)
    local temporary = path .. ".tmp"
    local file, open_error = io.open(temporary, "wb")
    if not file then error("cannot create " .. open_error, 0) end
    local written, write_error = file:write(content)
    -- a full disk may show only when the buffer is flushed
    local closed, close_error = file:close()
    if not (written and closed) then
        os.remove(temporary)
        error("cannot write " .. temporary .. ": " .. tostring(write_error or close_error), 0)
    end
    local renamed, rename_error = os.rename(temporary, path)
    if not renamed then error("cannot rename " .. rename_error, 0) end
end

-- wrk hands over a userdata that holds a pointer to its struct. Its methods are used only to check
-- the layout: latency(i) starts at the first bucket at every call, which takes seconds for a whole
-- histogram.
local function stats_of(latency)
    local stats = ffi.cast("uplab_wrk_stats **", latency)[0]
    local agrees = tonumber(stats.min) == latency.min and tonumber(stats.max) == latency.max
    if not agrees or stats.max >= stats.limit then
        error("the statistics of this wrk are not laid out as in wrk 4.0 to 4.2", 0)
    end
    return stats
end

-- The histogram as a string of uint32 pairs, and its number of buckets.
local function histogram_of(latency, stats)
    if stats.count == 0 then return "", 0 end
    if tonumber(stats.max) >= U4_LIMIT then
        error("a latency of " .. tonumber(stats.max) .. " us does not fit 32 bits", 0)
    end
    local size = #latency
    local pairs_out = ffi.new("uint32_t[?]", 2 * size)
    -- two halves of each 64-bit count: plain numbers, which the compiler keeps in registers
    local halves = ffi.cast("const uint32_t *", stats.data)
    local filled, total = 0, 0
    for value = tonumber(stats.min), tonumber(stats.max) do
        local low, high = halves[2 * value], halves[2 * value + 1]
        if high ~= 0 then
            error("the count of " .. value .. " us does not fit 32 bits", 0)
        end
        if low ~= 0 then
            if filled == size then error("the histogram changed while it was read", 0) end
            pairs_out[2 * filled], pairs_out[2 * filled + 1] = value, low
            filled, total = filled + 1, total + low
        end
    end
    if filled ~= size or total ~= tonumber(stats.count) then
        error("the histogram's counts do not add up to wrk's own", 0)
    end
    return ffi.string(pairs_out, 8 * size), size
end

local function integer(number) return string.format("%.0f", number) end

-- With no latency recorded wrk's min is 2^64 - 1 and the others are 0: none of them was measured.
local function measured(recorded, text) return recorded and text or "null" end

local function summary_json(summary, latency, stats, buckets)
    local errors, some = summary.errors, stats.count > 0
    return table.concat({
        '{"schema": 1',
        ', "duration_us": ', integer(summary.duration),
        ', "requests": ', integer(summary.requests),
        ', "bytes": ', integer(summary.bytes),
        ', "errors": {"connect": ', integer(errors.connect),
        ', "read": ', integer(errors.read),
        ', "write": ', integer(errors.write),
        ', "status": ', integer(errors.status),
        ', "timeout": ', integer(errors.timeout),
        '}, "latency": {"count": ', integer(tonumber(stats.count)),
        ', "buckets": ', integer(buckets),
        ', "min_us": ', measured(some, integer(tonumber(stats.min))),
        ', "max_us": ', measured(some, integer(tonumber(stats.max))),
        ', "mean_us": ', measured(some, string.format("%.17g", latency.mean)),
        ', "stdev_us": ', measured(some, string.format("%.17g", latency.stdev)),
        '}}\n',
    })
end

local function write_all(summary, latency)
    local directory = os.getenv("UPLAB_LOAD_OUT")
    if not directory or directory == "" then
        error("UPLAB_LOAD_OUT names no directory", 0)
    end
    if not ffi.abi("le") then error("only little-endian machines are supported", 0) end
    local stats = stats_of(latency)
    local histogram, buckets = histogram_of(latency, stats)
    write_whole(directory .. "/wrk-histogram.u4", histogram)
    write_whole(directory .. "/wrk-summary.json", summary_json(summary, latency, stats, buckets))
end

function done(summary, latency, requests)
    local succeeded, cause = pcall(write_all, summary, latency)
    if not succeeded then
        io.stderr:write("done.lua: no summary and no histogram written: ", tostring(cause), "\n")
    end
end
