/* SPDX-License-Identifier: Apache-2.0 */
/* The instructions to probe, one in each function, as bytes: an assembler may choose others. */
	.text

	.macro function name
	.globl \name
	.type \name, @function
	.balign 64
\name:
	.endm

function code_emulated
	.globl site_emulated
site_emulated:
	.byte 0x55			/* push %rbp */
	pop	%rbp
	ret
	.size code_emulated, . - code_emulated

function code_nop5
	.globl site_nop5
site_nop5:
	.byte 0x0f, 0x1f, 0x44, 0x00, 0x00
	ret
	.size code_nop5, . - code_nop5

function code_single_stepped
	.globl site_single_stepped
site_single_stepped:
	.byte 0x49, 0x3b, 0x66, 0x10	/* cmp 0x10(%r14),%rsp */
	ret
	.size code_single_stepped, . - code_single_stepped

function code_return
	.globl site_return
site_return:
	.byte 0xc3
	.size code_return, . - code_return

/* Begins as a Go function does. A probe in userspace takes its first two instructions for a jump. */
function code_go_entry
	.globl site_go_entry
site_go_entry:
	.byte 0x49, 0x3b, 0x66, 0x10	/* cmp 0x10(%r14),%rsp */
	.byte 0x0f, 0x86, 0, 0, 0, 0	/* jbe, to the next instruction: no stack to grow here */
	sub	$0x10, %rsp
	mov	%rbp, 8(%rsp)
	lea	8(%rsp), %rbp
	mov	8(%rsp), %rbp
	add	$0x10, %rsp
	ret
	.size code_go_entry, . - code_go_entry

/* void call_repeatedly(void (*function)(void), unsigned long calls)
 * r14 points to the stack, as Go keeps its g there: cmp 0x10(%r14) must read something. */
function call_repeatedly
	push	%rbx
	push	%r12
	push	%r14
	mov	%rdi, %rbx
	mov	%rsi, %r12
	lea	-64(%rsp), %r14
	test	%r12, %r12
	jz	2f
1:	call	*%rbx
	dec	%r12
	jnz	1b
2:	pop	%r14
	pop	%r12
	pop	%rbx
	ret
	.size call_repeatedly, . - call_repeatedly

	.section .note.GNU-stack, "", @progbits
