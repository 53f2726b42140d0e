// Of the stand-in for bpftime: another process by ptrace(2) and /proc/PID/mem.
#include "target.h"

#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int known(const struct target *target, pid_t tid) {
	for (size_t index = 0; index < target->thread_count; index++) {
		if (target->threads[index].tid == tid) {
			return 1;
		}
	}
	return 0;
}

// Out: the signal with which the thread stopped; 0 where it was only interrupted.
static int wait_for_stop(pid_t tid) {
	int status;
	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status)) {
		errx(1, "stand-in: thread %d ended", tid);
	}
	return status >> 16 == PTRACE_EVENT_STOP ? 0 : WSTOPSIG(status);
}

// Out: how many threads were stopped; new ones may have been started meanwhile.
static size_t stop_new_threads(struct target *target) {
	char path[64];
	size_t stopped = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", target->pid);
	DIR *folder = opendir(path);
	if (!folder) {
		err(1, "stand-in: process %d", target->pid);
	}
	for (struct dirent *entry; (entry = readdir(folder));) {
		pid_t tid = atoi(entry->d_name);
		if (!isdigit(entry->d_name[0]) || known(target, tid)) {
			continue;
		}
		if (target->thread_count == MAX_THREADS) {
			errx(1, "stand-in: more than %d threads", MAX_THREADS);
		}
		if (ptrace(PTRACE_SEIZE, tid, 0, 0) != 0) {
			if (errno == ESRCH) {
				continue;
			}
			err(1, "stand-in: thread %d", tid);
		}
		ptrace(PTRACE_INTERRUPT, tid, 0, 0);
		target->threads[target->thread_count].tid = tid;
		target->threads[target->thread_count++].signal = wait_for_stop(tid);
		stopped++;
	}
	closedir(folder);
	return stopped;
}

void target_stop(struct target *target, pid_t pid) {
	char path[64];
	target->pid = pid;
	target->thread_count = 0;
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	target->memory = open(path, O_RDWR | O_CLOEXEC);
	if (target->memory < 0) {
		err(1, "stand-in: %s", path);
	}
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	ssize_t length = readlink(path, target->program, sizeof(target->program) - 1);
	if (length < 0) {
		err(1, "stand-in: %s", path);
	}
	target->program[length] = '\0';
	while (stop_new_threads(target)) {
	}
	target_read_mappings(target);
}

void target_resume(struct target *target) {
	for (size_t index = 0; index < target->thread_count; index++) {
		long number = target->threads[index].signal;
		ptrace(PTRACE_DETACH, target->threads[index].tid, 0, number);
	}
	close(target->memory);
}

void target_read_mappings(struct target *target) {
	char path[64], line[1024];
	snprintf(path, sizeof(path), "/proc/%d/maps", target->pid);
	FILE *file = fopen(path, "re");
	if (!file) {
		err(1, "stand-in: %s", path);
	}
	target->mapping_count = 0;
	while (fgets(line, sizeof(line), file) && target->mapping_count < MAX_MAPPINGS) {
		struct mapping *mapping = &target->mappings[target->mapping_count++];
		char rights[8];
		mapping->path[0] = '\0';
		sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &mapping->start, &mapping->end, rights,
		       &mapping->offset, mapping->path);
		mapping->executable = rights[2] == 'x';
	}
	fclose(file);
}

void target_read(struct target *target, uint64_t at, void *to, size_t size) {
	if (pread(target->memory, to, size, (off_t)at) != (ssize_t)size) {
		err(1, "stand-in: cannot read %zu bytes at %#lx", size, at);
	}
}

void target_write(struct target *target, uint64_t at, const void *from, size_t size) {
	if (pwrite(target->memory, from, size, (off_t)at) != (ssize_t)size) {
		err(1, "stand-in: cannot write %zu bytes at %#lx", size, at);
	}
}

// One instruction. A signal that comes in between is kept for the end.
static void step(struct target *target, size_t index) {
	struct user_regs_struct before, after;
	pid_t tid = target->threads[index].tid;
	ptrace(PTRACE_GETREGS, tid, 0, &before);
	do {
		if (ptrace(PTRACE_SINGLESTEP, tid, 0, 0) != 0) {
			err(1, "stand-in: step of thread %d", tid);
		}
		int number = wait_for_stop(tid);
		if (number && number != SIGTRAP) {
			target->threads[index].signal = number;
		}
		ptrace(PTRACE_GETREGS, tid, 0, &after);
	} while (after.rip == before.rip);
}

static uint64_t find_syscall_instruction(struct target *target) {
	static const uint8_t instruction[] = {0x0f, 0x05};
	for (size_t index = 0; index < target->mapping_count; index++) {
		const struct mapping *mapping = &target->mappings[index];
		size_t size = mapping->end - mapping->start;
		if (!mapping->executable || mapping->path[0] != '/') {
			continue;
		}
		uint8_t *code = malloc(size);
		ssize_t length = pread(target->memory, code, size, (off_t)mapping->start);
		uint8_t *found = length > 0 ? memmem(code, (size_t)length, instruction, 2) : NULL;
		uint64_t at = found ? mapping->start + (uint64_t)(found - code) : 0;
		free(code);
		if (at) {
			return at;
		}
	}
	errx(1, "stand-in: no syscall instruction in process %d", target->pid);
}

uint64_t target_syscall(struct target *target, long number, const uint64_t arguments[6]) {
	struct user_regs_struct saved, changed;
	pid_t tid = target->threads[0].tid;
	ptrace(PTRACE_GETREGS, tid, 0, &saved);
	changed = saved;
	changed.rip = find_syscall_instruction(target);
	// It may have been stopped inside a call, which the kernel must not begin again here.
	changed.orig_rax = (unsigned long long)-1;
	changed.rax = (unsigned long long)number;
	changed.rdi = arguments[0];
	changed.rsi = arguments[1];
	changed.rdx = arguments[2];
	changed.r10 = arguments[3];
	changed.r8 = arguments[4];
	changed.r9 = arguments[5];
	ptrace(PTRACE_SETREGS, tid, 0, &changed);
	step(target, 0);
	ptrace(PTRACE_GETREGS, tid, 0, &changed);
	ptrace(PTRACE_SETREGS, tid, 0, &saved);
	if ((int64_t)changed.rax < 0 && (int64_t)changed.rax > -4096) {
		errx(1, "stand-in: call %ld in process %d: %s", number, target->pid,
		     strerror((int)-(int64_t)changed.rax));
	}
	return changed.rax;
}

void target_step_out(struct target *target, uint64_t start, size_t size) {
	for (size_t index = 0; index < target->thread_count; index++) {
		struct user_regs_struct registers;
		for (;;) {
			ptrace(PTRACE_GETREGS, target->threads[index].tid, 0, &registers);
			if (registers.rip <= start || registers.rip >= start + size) {
				break;
			}
			step(target, index);
		}
	}
}

uint64_t target_address(const struct target *target, const char *file, uint64_t offset) {
	for (size_t index = 0; index < target->mapping_count; index++) {
		const struct mapping *mapping = &target->mappings[index];
		uint64_t size = mapping->end - mapping->start;
		if (mapping->executable && strcmp(mapping->path, file) == 0 &&
		    mapping->offset <= offset && offset < mapping->offset + size) {
			return mapping->start + offset - mapping->offset;
		}
	}
	return 0;
}

uint64_t target_gap(const struct target *target, size_t size) {
	int behind = 0;
	for (size_t index = 0; index + 1 < target->mapping_count; index++) {
		const struct mapping *mapping = &target->mappings[index];
		behind = behind || strcmp(mapping->path, target->program) == 0;
		if (behind && target->mappings[index + 1].start - mapping->end >= size) {
			return mapping->end;
		}
	}
	errx(1, "stand-in: no room behind the program of process %d", target->pid);
}
