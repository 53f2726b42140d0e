// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A line that does not fit is dropped whole. Lines that nobody reads leave room for those that matter
 * more: events for counters, both for the end, of which there is one. */
enum {
	WAITING_LIMIT = 1 << 20,
	COUNTERS_LIMIT = WAITING_LIMIT - (1 << 17),
	EVENTS_LIMIT = COUNTERS_LIMIT - (1 << 17),
};

static char waiting[WAITING_LIMIT];
static size_t waiting_bytes;
/* Where the line being written starts, where it must end, and whether it still fits. */
static size_t line_start;
static size_t line_limit;
static bool line_fits;

static void append(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void append(const char *format, ...)
{
	size_t room = line_limit > waiting_bytes ? line_limit - waiting_bytes : 0;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(waiting + waiting_bytes, room, format, arguments);
	va_end(arguments);
	if (!line_fits || length < 0 || (size_t)length >= room)
		line_fits = false;
	else
		waiting_bytes += (size_t)length;
}

static void start_line(const char *event, size_t limit)
{
	line_start = waiting_bytes;
	line_limit = limit;
	line_fits = true;
	append("{\"event\":\"%s\"", event);
}

static void end_line(void)
{
	append("}\n");
	if (!line_fits)
		waiting_bytes = line_start;
	output_flush();
}

/* Bytes that are not printable ASCII go out as \u00XX, one for one. */
static void append_string(const void *text, size_t bytes)
{
	const unsigned char *at = text;

	append("\"");
	for (size_t index = 0; index < bytes; index++) {
		if (at[index] == '"' || at[index] == '\\')
			append("\\%c", at[index]);
		else if (at[index] < 0x20 || at[index] > 0x7e)
			append("\\u%04x", at[index]);
		else
			append("%c", at[index]);
	}
	append("\"");
}

/* A path stays what it is: UTF-8 is allowed in JSON, only the controls are not. */
static void append_path(const char *path)
{
	append("\"");
	for (; *path; path++) {
		if (*path == '"' || *path == '\\')
			append("\\%c", *path);
		else if ((unsigned char)*path < 0x20 || *path == 0x7f)
			append("\\u%04x", *path);
		else
			append("%c", *path);
	}
	append("\"");
}

static void append_names(const char *key, const char *const *names)
{
	append(",\"%s\":[", key);
	for (size_t index = 0; names[index]; index++)
		append("%s\"%s\"", index ? "," : "", names[index]);
	append("]");
}

static void append_sites(const struct sites *sites)
{
	append(",\"sites\":[");
	for (size_t index = 0; index < sites->count; index++) {
		const struct site *site = &sites->list[index];

		append("%s{\"name\":\"%s\",\"symbol\":\"%s\",\"at\":\"%s\",\"offset\":%" PRIu64
		       ",\"address\":%" PRIu64 ",\"placement\":\"%s\"}",
		       index ? "," : "", site->name, site->symbol, site->at, site->offset,
		       site->address, placement_name(site->placement));
	}
	append("]");
}

static void append_userspace(const struct options *options, const struct userspace *userspace)
{
	append(",\"userspace\":{\"map_kind\":\"%s\",\"attach_ms\":%.1f,\"preload\":",
	       map_kind_name(options->map_kind), userspace->attach_ms);
	if (options->preload)
		append_path(options->preload);
	else
		append("null");
	append("}");
}

void output_attached(const struct options *options, const struct target *target,
		     const struct sites *sites, const struct attachment *attachment,
		     const struct userspace *userspace)
{
	start_line("attached", WAITING_LIMIT);
	append(",\"tracer\":\"gotrace\",\"version\":\"" GOTRACE_VERSION "\",\"pid\":%d,\"exe\":",
	       target->pid);
	append_path(target->exe);
	append(",\"attach\":\"%s\",\"attach_ms\":%.1f", attach_name(attachment->mode),
	       attachment->attach_ms);
	append_sites(sites);
	if (userspace->child.pid)
		append_userspace(options, userspace);
	append_names("tracepoints", tracepoint_names);
	append_names("syscalls", traced_syscalls);
	end_line();
}

static void append_counts(const struct sites *sites, const struct counts *counts)
{
	append(",\"monotonic_ns\":%" PRIu64 ",\"sites\":[", counts->monotonic_ns);
	for (size_t index = 0; index < sites->count; index++)
		append("%s{\"name\":\"%s\",\"offset\":%" PRIu64 ",\"hits\":%" PRIu64 "}",
		       index ? "," : "", sites->list[index].name, sites->list[index].offset,
		       counts->site_hits[index]);
	append("],\"tracepoint_hits\":%" PRIu64 ",\"events\":{\"emitted\":%" PRIu64
	       ",\"received\":%" PRIu64 ",\"lost\":%" PRIu64 "}",
	       counts->tracepoint_hits, counts->emitted, counts->received, counts->lost);
}

void output_counters(const struct sites *sites, const struct counts *counts)
{
	start_line("counters", COUNTERS_LIMIT);
	append_counts(sites, counts);
	end_line();
}

void output_end(const struct sites *sites, const struct counts *counts, const char *reason,
		double detach_ms)
{
	start_line("end", WAITING_LIMIT);
	append(",\"reason\":\"%s\",\"detach_ms\":%.1f", reason, detach_ms);
	append_counts(sites, counts);
	end_line();
}

void output_event(const struct event *event)
{
	static const char *const sources[] = {"tls_write", "tls_read", "syscall"};

	start_line("event", EVENTS_LIMIT);
	append(",\"source\":\"%s\"", sources[event->source]);
	if (event->source == EVENT_SYSCALL)
		append(",\"syscall\":%u", event->syscall);
	append(",\"time_ns\":%llu,\"duration_ns\":%llu,\"goroutine\":%llu,\"thread\":%u,\"fd\":%d"
	       ",\"result\":%lld,\"payload\":",
	       event->time_ns, event->duration_ns, event->goroutine, event->thread, event->fd,
	       event->result);
	append_string(event->payload, event->payload_bytes);
	end_line();
}

bool output_waiting(void)
{
	return waiting_bytes > 0;
}

/* Writes one piece if the reader takes it within timeout_ms. A pipe that polls writable takes
 * PIPE_BUF bytes without blocking. */
static bool write_piece(int timeout_ms)
{
	struct pollfd reader = {.fd = STDOUT_FILENO, .events = POLLOUT};
	size_t bytes = waiting_bytes < PIPE_BUF ? waiting_bytes : PIPE_BUF;
	ssize_t written;

	if (!bytes || poll(&reader, 1, timeout_ms) <= 0)
		return false;
	written = write(STDOUT_FILENO, waiting, bytes);
	if (written < 0) {
		/* Nobody will ever read: forget the lines, go on tracing. */
		if (errno != EINTR && errno != EAGAIN)
			waiting_bytes = 0;
		return errno == EINTR;
	}
	waiting_bytes -= (size_t)written;
	memmove(waiting, waiting + written, waiting_bytes);
	return true;
}

void output_flush(void)
{
	while (write_piece(0))
		continue;
}

void output_finish(int timeout_ms)
{
	while (write_piece(timeout_ms))
		continue;
}
