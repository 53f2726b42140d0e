// SPDX-License-Identifier: Apache-2.0
/* The programs for the sites that are placed in userspace: function entries alone, one program for
 * each and each kind of map. They run in a userspace runtime (bpftime) or, just the same, in the
 * kernel. No relocation needs the kernel's types and no helper is used that only a kernel has.
 *
 * A userspace runtime runs them on the stack of the goroutine that hits the probe, which may have
 * a few hundred bytes left. llvmbpf reserves 16 KB of it for a program that touches the BPF stack
 * at all, so the array kinds never do: their keys lie in .rodata, and helpers write straight into
 * the maps. The hash kinds are keyed on the stack, as tracers commonly are. */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "shared.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum {
	/* Powers of two. */
	SLOT_COUNT = 16384,
	PERCPU_SLOT_COUNT = 4096,
};

/* Where runtime.g keeps goid. */
const volatile __u32 goid_offset = 0;

/* --- array: global variables. What two threads or goroutines keep in the same slot is lost to one
 * of them; hits never are. None is static: the compiler would drop what is written only. */

__u64 hits[SITE_KIND_COUNT];
__u64 goroutines[SLOT_COUNT];
struct tls_call write_calls[SLOT_COUNT], read_calls[SLOT_COUNT];

SEC("uprobe")
int array_casgstatus(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&hits[SITE_CASGSTATUS], 1);
	if ((__u32)ctx->cx == GO_STATUS_RUNNING)
		bpf_probe_read_user(&goroutines[bpf_get_current_pid_tgid() % SLOT_COUNT],
				    sizeof(goroutines[0]), (void *)(ctx->ax + goid_offset));
	return 0;
}

static __always_inline void array_keep_call(struct pt_regs *ctx, struct tls_call *calls)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 goroutine = goroutines[thread % SLOT_COUNT];
	struct tls_call *call = &calls[(goroutine ? goroutine : thread) % SLOT_COUNT];

	call->start_ns = bpf_ktime_get_ns();
	call->connection = ctx->ax;
	call->buffer = ctx->bx;
}

SEC("uprobe")
int array_tls_write(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&hits[SITE_TLS_WRITE], 1);
	array_keep_call(ctx, write_calls);
	return 0;
}

SEC("uprobe")
int array_tls_read(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&hits[SITE_TLS_READ], 1);
	array_keep_call(ctx, read_calls);
	return 0;
}

/* --- percpu-array: the last goroutine and the last calls that a CPU has seen. */

const volatile __u32 percpu_keys[SITE_KIND_COUNT] = {0, 1, 2, 3, 4};

struct cpu_state {
	__u64 goroutine;
	struct tls_call write_call;
	struct tls_call read_call;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SITE_KIND_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} pa_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_state);
} pa_states SEC(".maps");

/* Atomic, as a thread that is preempted here may go on on another CPU. */
static __always_inline void percpu_array_count(enum site_kind kind)
{
	__u64 *count = bpf_map_lookup_elem(&pa_hits, (const void *)&percpu_keys[kind]);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct cpu_state *percpu_array_state(void)
{
	return bpf_map_lookup_elem(&pa_states, (const void *)&percpu_keys[0]);
}

static __always_inline void percpu_array_keep_call(struct pt_regs *ctx, struct tls_call *call)
{
	call->start_ns = bpf_ktime_get_ns();
	call->connection = ctx->ax;
	call->buffer = ctx->bx;
}

SEC("uprobe")
int percpu_array_casgstatus(struct pt_regs *ctx)
{
	struct cpu_state *state;

	percpu_array_count(SITE_CASGSTATUS);
	if ((__u32)ctx->cx != GO_STATUS_RUNNING)
		return 0;
	state = percpu_array_state();
	if (state)
		bpf_probe_read_user(&state->goroutine, sizeof(state->goroutine),
				    (void *)(ctx->ax + goid_offset));
	return 0;
}

SEC("uprobe")
int percpu_array_tls_write(struct pt_regs *ctx)
{
	struct cpu_state *state;

	percpu_array_count(SITE_TLS_WRITE);
	state = percpu_array_state();
	if (state)
		percpu_array_keep_call(ctx, &state->write_call);
	return 0;
}

SEC("uprobe")
int percpu_array_tls_read(struct pt_regs *ctx)
{
	struct cpu_state *state;

	percpu_array_count(SITE_TLS_READ);
	state = percpu_array_state();
	if (state)
		percpu_array_keep_call(ctx, &state->read_call);
	return 0;
}

/* --- hash, percpu-hash: keys and values on the BPF stack. A full map keeps no more: nothing here
 * waits for what is kept. The entries of the hits are made by user space, so that no two threads
 * make the same one. With percpu-hash the hits are a variable: bpftime looks up such a map through
 * a buffer that all threads of a CPU share, and one in ten thousand hits would be lost. */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SITE_KIND_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} h_hits SEC(".maps");

#define HASH_MAPS(kind, map_type, slots)                                                           \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__uint(max_entries, slots);                                                        \
		__type(key, __u64); /* thread */                                                   \
		__type(value, __u64);                                                              \
	} kind##_goroutines SEC(".maps");                                                          \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__uint(max_entries, slots);                                                        \
		__type(key, __u64); /* goroutine and direction */                                  \
		__type(value, struct tls_call);                                                    \
	} kind##_calls SEC(".maps")

HASH_MAPS(h, BPF_MAP_TYPE_HASH, SLOT_COUNT);
HASH_MAPS(ph, BPF_MAP_TYPE_PERCPU_HASH, PERCPU_SLOT_COUNT);

static __always_inline void hash_count(__u32 kind)
{
	__u64 *count = bpf_map_lookup_elem(&h_hits, &kind);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void percpu_hash_count(__u32 kind)
{
	__sync_fetch_and_add(&hits[kind], 1);
}

static __always_inline void hash_keep_goroutine(struct pt_regs *ctx, void *map)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 goroutine = 0;

	if ((__u32)ctx->cx != GO_STATUS_RUNNING ||
	    bpf_probe_read_user(&goroutine, sizeof(goroutine), (void *)(ctx->ax + goid_offset)))
		return;
	bpf_map_update_elem(map, &thread, &goroutine, BPF_ANY);
}

static __always_inline void hash_keep_call(struct pt_regs *ctx, void *goroutine_map, void *call_map,
					   bool write)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *goroutine = bpf_map_lookup_elem(goroutine_map, &thread);
	__u64 key = goroutine ? *goroutine << 1 : thread | 1ULL << 63;
	struct tls_call call = {
	    .start_ns = bpf_ktime_get_ns(),
	    .connection = ctx->ax,
	    .buffer = ctx->bx,
	};

	key ^= write ? 1ULL << 62 : 0;
	bpf_map_update_elem(call_map, &key, &call, BPF_ANY);
}

#define HASH_PROGRAMS(name, maps)                                                                  \
	SEC("uprobe")                                                                              \
	int name##_casgstatus(struct pt_regs *ctx)                                                 \
	{                                                                                          \
		name##_count(SITE_CASGSTATUS);                                                     \
		hash_keep_goroutine(ctx, &maps##_goroutines);                                      \
		return 0;                                                                          \
	}                                                                                          \
	SEC("uprobe")                                                                              \
	int name##_tls_write(struct pt_regs *ctx)                                                  \
	{                                                                                          \
		name##_count(SITE_TLS_WRITE);                                                      \
		hash_keep_call(ctx, &maps##_goroutines, &maps##_calls, true);                      \
		return 0;                                                                          \
	}                                                                                          \
	SEC("uprobe")                                                                              \
	int name##_tls_read(struct pt_regs *ctx)                                                   \
	{                                                                                          \
		name##_count(SITE_TLS_READ);                                                       \
		hash_keep_call(ctx, &maps##_goroutines, &maps##_calls, false);                     \
		return 0;                                                                          \
	}

HASH_PROGRAMS(hash, h)
HASH_PROGRAMS(percpu_hash, ph)
