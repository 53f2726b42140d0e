/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of probe-cost agree on. */
#ifndef PROBE_COST_H
#define PROBE_COST_H

/* How the kernel gets past the probed instruction decides what a hit costs. */
enum instruction_class {
	CLASS_EMULATED,	      /* push %rbp: done in the kernel's own code */
	CLASS_NOP5,	      /* the five-byte nop: rewritten into a call by newer kernels */
	CLASS_SINGLE_STEPPED, /* cmp 0x10(%r14),%rsp: the first instruction of most Go functions */
	CLASS_RETURN,	      /* ret */
	CLASS_COUNT,
};

#endif
