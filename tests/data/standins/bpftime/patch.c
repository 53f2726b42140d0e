// Of the stand-in for bpftime: displaces instructions of x86-64, which Zydis decodes.
#include "patch.h"

#include <Zydis/Zydis.h>
#include <string.h>

static int decode(const uint8_t *code, size_t size, ZydisDecodedInstruction *instruction) {
	ZydisDecoder decoder;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, size, instruction));
}

// A conditional jump that can be written with 32 bits of distance.
static int is_jcc(const ZydisDecodedInstruction *instruction) {
	return instruction->meta.category == ZYDIS_CATEGORY_COND_BR &&
	       (instruction->raw.imm[0].size == 32 || (instruction->opcode & 0xf0) == 0x70);
}

static int can_run_elsewhere(const ZydisDecodedInstruction *instruction) {
	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_UNCOND_BR:
		return 0;
	case ZYDIS_CATEGORY_COND_BR:
		return is_jcc(instruction);
	default:
		return !(instruction->attributes & ZYDIS_ATTRIB_IS_RELATIVE);
	}
}

size_t patch_cut(const uint8_t *code, size_t size) {
	size_t cut = 0;
	while (cut < JUMP_BYTES) {
		ZydisDecodedInstruction instruction;
		if (!decode(code + cut, size - cut, &instruction) || !can_run_elsewhere(&instruction)) {
			return 0;
		}
		cut += instruction.length;
	}
	return cut;
}

static void put_distance(uint8_t *out, uint64_t end, uint64_t to) {
	int32_t distance = (int32_t)(to - end);
	memcpy(out, &distance, sizeof(distance));
}

void patch_jump(uint8_t *out, uint64_t from, uint64_t to) {
	out[0] = 0xe9;
	put_distance(out + 1, from + JUMP_BYTES, to);
}

static size_t displace(uint8_t *out, const uint8_t *code, uint64_t from, uint64_t to,
		       const ZydisDecodedInstruction *instruction) {
	if (!is_jcc(instruction)) {
		memcpy(out, code, instruction->length);
		return instruction->length;
	}
	uint64_t target = from + instruction->length + (uint64_t)instruction->raw.imm[0].value.s;
	out[0] = 0x0f;
	out[1] = 0x80 | (instruction->opcode & 0x0f);
	put_distance(out + 2, to + 6, target);
	return 6;
}

// pushfq; lock inc [counter]; (cmp dword [counter], limit; jb +2; ud2;) popfq
// One word of the stack, because a goroutine has little of it.
static size_t count(uint8_t *out, uint64_t at, uint64_t counter, uint32_t breaks_after) {
	static const uint8_t increment[] = {0x9c, 0xf0, 0x48, 0xff, 0x05};
	static const uint8_t compare[] = {0x81, 0x3d};
	static const uint8_t break_down[] = {0x72, 0x02, 0x0f, 0x0b};
	uint8_t *to = out;
	memcpy(to, increment, sizeof(increment));
	to += sizeof(increment) + 4;
	put_distance(to - 4, at + (uint64_t)(to - out), counter);
	if (breaks_after) {
		memcpy(to, compare, sizeof(compare));
		to += sizeof(compare) + 8;
		put_distance(to - 8, at + (uint64_t)(to - out), counter);
		memcpy(to - 4, &breaks_after, sizeof(breaks_after));
		memcpy(to, break_down, sizeof(break_down));
		to += sizeof(break_down);
	}
	*to++ = 0x9d;
	return (size_t)(to - out);
}

void patch_trampoline(uint8_t out[TRAMPOLINE_BYTES], const uint8_t *code, uint64_t site, uint64_t at,
		      uint64_t counter, uint32_t breaks_after) {
	size_t length = count(out, at, counter, breaks_after), cut = 0;
	while (cut < JUMP_BYTES) {
		ZydisDecodedInstruction instruction;
		decode(code + cut, MAX_CUT_BYTES - cut, &instruction);
		length += displace(out + length, code + cut, site + cut, at + length, &instruction);
		cut += instruction.length;
	}
	patch_jump(out + length, at + length, site + cut);
}
