// Of the stand-in for bpftime: what its programs share, in /dev/shm/$BPFTIME_GLOBAL_SHM_NAME.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SHM_MAGIC "standin1"
#define SHM_VARIABLE "BPFTIME_GLOBAL_SHM_NAME"
#define SHM_DEFAULT_NAME "bpftime_maps_shm"
#define SHM_HEAD_BYTES (64 << 10)
#define MAX_SITES 64
#define MAX_ATTACHED 16

// One probe site, and how often it was hit. No file: the target's own program.
struct shared_site {
	char file[256];
	uint64_t offset;
	uint64_t hits;
};

// tracer.py reads and writes this, too. only_tracer is the daemon's -p: whose probes it takes over.
struct shared {
	char magic[8];
	uint32_t site_count;
	uint32_t attached_count;
	int32_t attached[MAX_ATTACHED];
	uint32_t from_daemon;
	int32_t only_tracer;
	struct shared_site sites[MAX_SITES];
};

_Static_assert(sizeof(struct shared) <= SHM_HEAD_BYTES, "it must fit into what is mapped");

// Makes the shared memory anew, as long as $BPFTIME_SHM_MEMORY_MB says. Out: mapped; NULL if not.
struct shared *shared_create(void);

// Maps the shared memory of that name. Out: NULL where there is none.
struct shared *shared_open(const char *name);

// Out: the path of the shared memory of that name.
void shared_path(const char *name, char *path, size_t size);

// Out: the word in the file `behaviour` beside a program (or beside the library at `beside`): how
// it shall misbehave; empty where it shall not.
const char *behaviour(const char *beside);

// Out: whether that is the behaviour of the program that runs.
int behaves(const char *word);
