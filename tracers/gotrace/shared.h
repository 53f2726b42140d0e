/* SPDX-License-Identifier: Apache-2.0 */
/* What the BPF programs and user space agree on. */
#ifndef GOTRACE_SHARED_H
#define GOTRACE_SHARED_H

enum {
	SITE_LIMIT = 256,
	PAYLOAD_BYTES = 256,
	RING_BYTES = 8 << 20,
	/* User space is woken when a quarter of the ring waits; what is less waits for its timer.
	 */
	RING_WAKE_BYTES = RING_BYTES / 4,
};

/* What the program does at a site. The upper half of a probe's cookie, the lower half is the
 * index of the site. */
enum site_kind {
	SITE_CASGSTATUS,
	SITE_TLS_WRITE,
	SITE_TLS_WRITE_RET,
	SITE_TLS_READ,
	SITE_TLS_READ_RET,
	SITE_KIND_COUNT,
};

/* The status that runtime.casgstatus gives to a goroutine which starts to run. */
enum { GO_STATUS_RUNNING = 2 };

enum counter {
	COUNTER_TRACEPOINT_HITS,
	COUNTER_EMITTED,
	COUNTER_LOST,
	COUNTER_LIMIT,
};

/* What is kept of a call of tls.Conn.Read or Write that has begun. */
struct tls_call {
	unsigned long long start_ns;
	unsigned long long connection;
	unsigned long long buffer;
};

enum event_source {
	EVENT_TLS_WRITE,
	EVENT_TLS_READ,
	EVENT_SYSCALL,
};

struct event {
	unsigned long long time_ns;
	unsigned long long duration_ns;
	unsigned long long goroutine; /* 0: not known yet */
	long long result;	      /* of the call: bytes, or a file descriptor */
	unsigned int source;	      /* enum event_source */
	unsigned int syscall;	      /* its number, when source is EVENT_SYSCALL */
	unsigned int thread;
	int fd;
	unsigned int payload_bytes;
	unsigned int reserved;
	unsigned char payload[PAYLOAD_BYTES];
};

#endif
