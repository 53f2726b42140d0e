// SPDX-License-Identifier: Apache-2.0
/* The least a probe can do: count. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "probe-cost.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Read in place by user space. Only one thread ever runs into these probes. */
__u64 hits[CLASS_COUNT];

__u64 userspace_hits;

SEC("uprobe")
int count_hit(void *ctx)
{
	__u64 class = bpf_get_attach_cookie(ctx);

	if (class < CLASS_COUNT)
		hits[class]++;
	return 0;
}

/* For a userspace runtime: it is set at one place, so it asks no helper where it is. */
SEC("uprobe")
int count_userspace_hit(void *ctx)
{
	(void)ctx;
	userspace_hits++;
	return 0;
}
