/* SPDX-License-Identifier: Apache-2.0 */
/* A process that we start and talk to: messages over a socket that keeps them whole, and what it
 * prints. It ends with us, however we end. */
#ifndef GOTRACE_CHILD_H
#define GOTRACE_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
	/* The descriptor of its end of the socket, in the child. */
	CHILD_CHANNEL = 3,
	/* What child_await returns besides 0. */
	CHILD_FAILED = -1,
	CHILD_INTERRUPTED = -2,
};

struct child {
	pid_t pid;	/* 0: there is none */
	int channel;	/* our end of the socket */
	int log;	/* readable when it has printed something, or has ended */
	bool passed_on; /* what it prints goes on to our stderr */
	char line[512]; /* the last one that it printed; of a longer one, the beginning */
	size_t line_bytes;
	bool line_open; /* it is not whole yet */
};

#define CHILD_NONE {.channel = -1, .log = -1}

/* Starts the program at path, with the library preload before all others unless that is NULL.
 * Returns 0 or an error number. */
int child_start(const char *path, const char *const *arguments, const char *preload,
		struct child *child);

/* Takes what it has printed. Returns false once it has ended. */
bool child_listen(struct child *child);

/* Sends a message; a child that is gone shows when its answer is awaited. */
void child_send(const struct child *child, const void *message, size_t bytes);

/* Waits for a message of bytes, and listens meanwhile. interrupted may be NULL. Returns 0,
 * CHILD_FAILED (it ended, or took too long) or CHILD_INTERRUPTED. */
int child_await(struct child *child, void *message, size_t bytes, int timeout_ms,
		bool (*interrupted)(void));

/* Kills it, unless it ends by itself in this moment, with all that it has started. Writes how it
 * ended, in a few words. */
void child_end(struct child *child, char *how, size_t size);

/* Why a child failed, in one line: its last line without our name, or that there is none. */
const char *child_last_line(const struct child *child);

#endif
