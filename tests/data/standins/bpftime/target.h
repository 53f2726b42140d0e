// Of the stand-in for bpftime: another process, stopped, read, written, and made to call the kernel.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#define MAX_THREADS 1024
#define MAX_MAPPINGS 2048

struct mapping {
	uint64_t start, end, offset;
	int executable;
	char path[256];
};

struct target {
	pid_t pid;
	int memory;
	char program[256];
	size_t thread_count, mapping_count;
	struct {
		pid_t tid;
		int signal;
	} threads[MAX_THREADS];
	struct mapping mappings[MAX_MAPPINGS];
};

// All of these end the program with a line on stderr where something fails.

// Stops all threads.
void target_stop(struct target *target, pid_t pid);

// Lets them go on, each with the signal that came meanwhile.
void target_resume(struct target *target);

// Reads the mappings again.
void target_read_mappings(struct target *target);

void target_read(struct target *target, uint64_t at, void *to, size_t size);

// Writes also where the process itself may only read.
void target_write(struct target *target, uint64_t at, const void *from, size_t size);

// The first thread calls the kernel. Out: the result, which must not be an error.
uint64_t target_syscall(struct target *target, long number, const uint64_t arguments[6]);

// No thread stands within these bytes afterwards; at their start it may.
void target_step_out(struct target *target, uint64_t start, size_t size);

// Out: the address at which a place of a file is mapped executable; 0 where it is not.
uint64_t target_address(const struct target *target, const char *file, uint64_t offset);

// Out: an unused piece of address space as near behind the program as there is.
uint64_t target_gap(const struct target *target, size_t size);
