// Of the stand-in for bpftime: the code that counts a hit, as bytes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define JUMP_BYTES 5
#define MAX_CUT_BYTES 32
#define TRAMPOLINE_BYTES 128

// Out: how many bytes of whole instructions a jump over `code` displaces; 0 where one of them
// cannot run elsewhere (a return, a call, an address relative to itself).
size_t patch_cut(const uint8_t *code, size_t size);

// Writes a jump from `from` to `to`, JUMP_BYTES long.
void patch_jump(uint8_t *out, uint64_t from, uint64_t to);

// Writes what runs instead of a site: counts, runs the displaced instructions, jumps back.
// In: the site's code and address, the addresses of the trampoline and of the counter, and after
// how many hits it shall break down (0: never). All within 2 GiB of each other.
void patch_trampoline(uint8_t out[TRAMPOLINE_BYTES], const uint8_t *code, uint64_t site, uint64_t at,
		      uint64_t counter, uint32_t breaks_after);
