// SPDX-License-Identifier: Apache-2.0
#include "uprobe_multi.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The part of union bpf_attr that BPF_LINK_CREATE takes for uprobe_multi. */
struct uprobe_multi_attr {
	uint32_t prog_fd;
	uint32_t target_fd;
	uint32_t attach_type;
	uint32_t link_flags;
	uint64_t path;
	uint64_t offsets;
	uint64_t ref_counter_offsets;
	uint64_t cookies;
	uint32_t count;
	uint32_t uprobe_flags;
	uint32_t pid;
	uint32_t padding;
};

static long bpf(int command, void *attr, unsigned int bytes)
{
	return syscall(SYS_bpf, command, attr, bytes);
}

int uprobe_multi_attach(int prog_fd, const char *path, const uint64_t *offsets,
			const uint64_t *cookies, uint32_t count, pid_t pid)
{
	struct uprobe_multi_attr attr = {
	    .prog_fd = (uint32_t)prog_fd,
	    .attach_type = UPROBE_MULTI_ATTACH_TYPE,
	    .path = (uintptr_t)path,
	    .offsets = (uintptr_t)offsets,
	    .cookies = (uintptr_t)cookies,
	    .count = count,
	    .pid = (uint32_t)pid,
	};

	return (int)bpf(BPF_LINK_CREATE, &attr, sizeof(attr));
}

static int load_empty_program(void)
{
	struct bpf_insn instructions[] = {
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
	    {.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr attr = {
	    .prog_type = BPF_PROG_TYPE_KPROBE,
	    .insns = (uintptr_t)instructions,
	    .insn_cnt = sizeof(instructions) / sizeof(instructions[0]),
	    .license = (uintptr_t) "GPL",
	    .expected_attach_type = UPROBE_MULTI_ATTACH_TYPE,
	};

	return (int)bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* Both questions are put with a path that is no file, so nothing is ever attached. A kernel with
 * the link refuses the path (EBADF); one with the right filter refuses the process id -1 before
 * that (EINVAL), as the fix came together with this check. */
bool uprobe_multi_supported(void)
{
	const uint64_t offset = 0;
	int program = load_empty_program();
	bool has_link, has_filter;

	if (program < 0)
		return false;
	has_link = uprobe_multi_attach(program, "/", &offset, NULL, 1, 0) < 0 && errno == EBADF;
	has_filter = uprobe_multi_attach(program, "/", &offset, NULL, 1, -1) < 0 && errno == EINVAL;
	close(program);
	return has_link && has_filter;
}
