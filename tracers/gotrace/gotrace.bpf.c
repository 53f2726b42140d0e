// SPDX-License-Identifier: Apache-2.0
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "shared.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* x86-64 system call numbers; vmlinux.h has no macros. */
enum {
	NR_READ = 0,
	NR_WRITE = 1,
	NR_CLOSE = 3,
	NR_READV = 19,
	NR_WRITEV = 20,
	NR_SENDTO = 44,
	NR_RECVFROM = 45,
	NR_SENDMSG = 46,
	NR_RECVMSG = 47,
	NR_ACCEPT4 = 288,
};

const volatile __u64 pidns_device = 0;
const volatile __u64 pidns_inode = 0;
/* The process as its own PID namespace numbers it. */
const volatile __u32 target_pid = 0;
/* Where runtime.g keeps goid. */
const volatile __u32 goid_offset = 0;
/* Not every entry is probed here: a return without one is an event all the same. */
const volatile bool entries_elsewhere = false;

struct system_call {
	__u64 start_ns;
	__u64 buffer;
	__u32 number;
	__s32 fd;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SITE_LIMIT);
	__type(key, __u32);
	__type(value, __u64);
} site_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_LIMIT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* thread */
	__type(value, __u64);
} goroutines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* goroutine and direction */
	__type(value, struct tls_call);
} tls_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* thread */
	__type(value, struct system_call);
} system_calls SEC(".maps");

/* Atomic although the slot belongs to this CPU: a program at a uprobe can be preempted by another
 * task that counts in the same slot, and hits are compared with requests to the last one. */
static __always_inline void increment(void *map, __u32 index)
{
	__u64 *count = bpf_map_lookup_elem(map, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline bool is_target(void)
{
	struct bpf_pidns_info ids = {};

	if (bpf_get_ns_current_pid_tgid(pidns_device, pidns_inode, &ids, sizeof(ids)))
		return false;
	return ids.tgid == target_pid;
}

static __always_inline __u64 current_goroutine(__u64 thread)
{
	__u64 *goroutine = bpf_map_lookup_elem(&goroutines, &thread);

	return goroutine ? *goroutine : 0;
}

/* A wakeup costs the traced thread 5-15 us, so only the event that crosses the threshold wakes. */
static __always_inline void submit(struct event *event)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	bool crosses =
	    waiting >= RING_WAKE_BYTES && waiting < RING_WAKE_BYTES + 2 * sizeof(struct event);

	increment(&counters, COUNTER_EMITTED);
	bpf_ringbuf_submit(event, crosses ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* start_ns is 0 where nobody saw the call begin. */
static __always_inline struct event *new_event(__u64 thread, __u64 start_ns)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		increment(&counters, COUNTER_LOST);
		return NULL;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->duration_ns = start_ns ? event->time_ns - start_ns : 0;
	event->goroutine = current_goroutine(thread);
	event->thread = (__u32)thread;
	event->syscall = 0;
	event->payload_bytes = 0;
	event->reserved = 0;
	return event;
}

static __always_inline void copy_payload(struct event *event, __u64 buffer, __u64 bytes)
{
	if (bytes > PAYLOAD_BYTES)
		bytes = PAYLOAD_BYTES;
	if (!bpf_probe_read_user(event->payload, bytes, (void *)buffer))
		event->payload_bytes = bytes;
}

/* A goroutine can change its thread between the entry and the return of a call, so calls belong
 * to goroutines; only one that has not been seen starting goes by its thread. */
static __always_inline __u64 tls_call_key(__u64 thread, bool write)
{
	__u64 goroutine = current_goroutine(thread);

	return (goroutine ? goroutine << 1 : thread | 1ULL << 63) ^ (write ? 1ULL << 62 : 0);
}

/* The socket behind a tls.Conn: conn.data -> TCPConn.conn.fd -> netFD.pfd.Sysfd. */
static __always_inline __s32 connection_fd(__u64 connection)
{
	__u64 pointer = 0;
	__s32 fd = -1;

	if (bpf_probe_read_user(&pointer, sizeof(pointer), (void *)(connection + 8)) ||
	    bpf_probe_read_user(&pointer, sizeof(pointer), (void *)pointer) ||
	    bpf_probe_read_user(&fd, sizeof(fd), (void *)(pointer + 16)))
		return -1;
	return fd;
}

/* casgstatus(gp *g, oldval, newval uint32) */
static __always_inline void on_casgstatus(struct pt_regs *ctx, __u64 thread)
{
	__u64 goroutine = 0;
	__u64 *known;

	if ((__u32)ctx->cx != GO_STATUS_RUNNING)
		return;
	if (bpf_probe_read_user(&goroutine, sizeof(goroutine), (void *)(ctx->ax + goid_offset)))
		return;
	/* The entry belongs to this thread alone: no one else can be writing it. */
	known = bpf_map_lookup_elem(&goroutines, &thread);
	if (known)
		*known = goroutine;
	else
		bpf_map_update_elem(&goroutines, &thread, &goroutine, BPF_ANY);
}

/* (c *Conn) Read(b []byte), (c *Conn) Write(b []byte) */
static __always_inline void on_tls_entry(struct pt_regs *ctx, __u64 thread, bool write)
{
	struct tls_call call = {
	    .start_ns = bpf_ktime_get_ns(),
	    .connection = ctx->ax,
	    .buffer = ctx->bx,
	};
	__u64 key = tls_call_key(thread, write);

	if (bpf_map_update_elem(&tls_calls, &key, &call, BPF_ANY))
		increment(&counters, COUNTER_LOST);
}

static __always_inline void on_tls_return(struct pt_regs *ctx, __u64 thread, bool write)
{
	__u64 key = tls_call_key(thread, write);
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &key);
	struct event *event;

	if (!call && !entries_elsewhere)
		return;
	event = new_event(thread, call ? call->start_ns : 0);
	if (event) {
		event->source = write ? EVENT_TLS_WRITE : EVENT_TLS_READ;
		event->result = (__s64)ctx->ax;
		event->fd = call ? connection_fd(call->connection) : -1;
		if (call && event->result > 0)
			copy_payload(event, call->buffer, event->result);
		submit(event);
	}
	if (call)
		bpf_map_delete_elem(&tls_calls, &key);
}

SEC("uprobe")
int on_site(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);
	__u64 thread = bpf_get_current_pid_tgid();

	if (!is_target())
		return 0;
	increment(&site_hits, (__u32)cookie);
	switch (cookie >> 32) {
	case SITE_CASGSTATUS:
		on_casgstatus(ctx, thread);
		break;
	case SITE_TLS_WRITE:
		on_tls_entry(ctx, thread, true);
		break;
	case SITE_TLS_WRITE_RET:
		on_tls_return(ctx, thread, true);
		break;
	case SITE_TLS_READ:
		on_tls_entry(ctx, thread, false);
		break;
	case SITE_TLS_READ_RET:
		on_tls_return(ctx, thread, false);
		break;
	}
	return 0;
}

static __always_inline bool is_traced(long number)
{
	switch (number) {
	case NR_READ:
	case NR_WRITE:
	case NR_CLOSE:
	case NR_READV:
	case NR_WRITEV:
	case NR_SENDTO:
	case NR_RECVFROM:
	case NR_SENDMSG:
	case NR_RECVMSG:
	case NR_ACCEPT4:
		return true;
	}
	return false;
}

/* The first buffer of the call, 0 for a call without one. */
static __always_inline __u64 buffer_of(long number, __u64 argument)
{
	struct user_msghdr message = {};
	struct iovec vector = {};

	switch (number) {
	case NR_CLOSE:
	case NR_ACCEPT4:
		return 0;
	case NR_SENDMSG:
	case NR_RECVMSG:
		if (bpf_probe_read_user(&message, sizeof(message), (void *)argument))
			return 0;
		argument = (__u64)message.msg_iov;
		break;
	case NR_READV:
	case NR_WRITEV:
		break;
	default:
		return argument;
	}
	if (bpf_probe_read_user(&vector, sizeof(vector), (void *)argument))
		return 0;
	return (__u64)vector.iov_base;
}

SEC("raw_tp/sys_enter")
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	long number = (long)ctx->args[1];
	__u64 thread = bpf_get_current_pid_tgid();
	struct system_call call = {};

	if (!is_traced(number) || !is_target())
		return 0;
	increment(&counters, COUNTER_TRACEPOINT_HITS);
	call.start_ns = bpf_ktime_get_ns();
	call.number = number;
	call.fd = (__s32)PT_REGS_PARM1_CORE_SYSCALL(regs);
	call.buffer = buffer_of(number, PT_REGS_PARM2_CORE_SYSCALL(regs));
	bpf_map_update_elem(&system_calls, &thread, &call, BPF_ANY);
	return 0;
}

SEC("raw_tp/sys_exit")
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	long result = (long)ctx->args[1];
	long number = (long)BPF_CORE_READ(regs, orig_ax);
	__u64 thread = bpf_get_current_pid_tgid();
	struct system_call *call;
	struct event *event;

	if (!is_traced(number) || !is_target())
		return 0;
	increment(&counters, COUNTER_TRACEPOINT_HITS);
	call = bpf_map_lookup_elem(&system_calls, &thread);
	if (!call)
		return 0;
	/* A call that failed (most often EAGAIN) carried nothing. */
	event = call->number == number && result >= 0 ? new_event(thread, call->start_ns) : NULL;
	if (event) {
		event->source = EVENT_SYSCALL;
		event->syscall = number;
		event->fd = call->fd;
		event->result = result;
		if (call->buffer && result > 0)
			copy_payload(event, call->buffer, result);
		submit(event);
	}
	bpf_map_delete_elem(&system_calls, &thread);
	return 0;
}
