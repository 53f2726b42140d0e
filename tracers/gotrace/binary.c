// SPDX-License-Identifier: Apache-2.0
#include "binary.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fail.h"

/* The piece of the file at offset, NULL where the file is too short for it. */
static const void *piece(const struct binary *binary, uint64_t offset, uint64_t bytes)
{
	if (offset > binary->bytes || bytes > binary->bytes - offset)
		return NULL;
	return binary->data + offset;
}

static const Elf64_Shdr *section_at(const struct binary *binary, size_t index)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)binary->data;

	if (index >= header->e_shnum)
		return NULL;
	return piece(binary, header->e_shoff + index * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr));
}

/* The string at index of a string table, NULL unless it ends inside the file. */
static const char *string_at(const struct binary *binary, const Elf64_Shdr *table, uint64_t index)
{
	const char *text;

	if (!table || index >= table->sh_size || !piece(binary, table->sh_offset, table->sh_size))
		return NULL;
	text = (const char *)binary->data + table->sh_offset + index;
	return memchr(text, 0, table->sh_size - index) ? text : NULL;
}

static const Elf64_Shdr *section_named(const struct binary *binary, const char *name)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)binary->data;
	const Elf64_Shdr *names = section_at(binary, header->e_shstrndx);

	for (size_t index = 0; index < header->e_shnum; index++) {
		const Elf64_Shdr *section = section_at(binary, index);
		const char *found = section ? string_at(binary, names, section->sh_name) : NULL;

		if (found && !strcmp(found, name))
			return section;
	}
	return NULL;
}

static const Elf64_Shdr *symbol_table(const struct binary *binary)
{
	const Elf64_Shdr *section;

	for (size_t index = 0; (section = section_at(binary, index)); index++)
		if (section->sh_type == SHT_SYMTAB)
			return section;
	return NULL;
}

static bool is_x86_64_elf(const struct binary *binary)
{
	const Elf64_Ehdr *header = piece(binary, 0, sizeof(*header));

	return header && !memcmp(header->e_ident, ELFMAG, SELFMAG) &&
	       header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_machine == EM_X86_64 &&
	       header->e_shentsize == sizeof(Elf64_Shdr);
}

/* Section .go.buildinfo: 14 bytes of magic, pointer size, flags; since Go 1.18 (flag 2) the
 * version follows at byte 32 as a string with its length in front. */
static int read_go_minor(const struct binary *binary, const Elf64_Shdr *section, int *minor)
{
	enum { MAGIC_BYTES = 14, FLAGS_AT = 15, INLINE_FLAG = 2, LENGTH_AT = 32, TEXT_AT = 33 };
	const unsigned char *info = piece(binary, section->sh_offset, section->sh_size);
	char version[128] = "";
	const char *release;
	size_t length;

	if (!info || section->sh_size <= TEXT_AT ||
	    memcmp(info, "\xff Go buildinf:", MAGIC_BYTES) || !(info[FLAGS_AT] & INLINE_FLAG))
		return -1;
	length = info[LENGTH_AT];
	if (length >= sizeof(version) || TEXT_AT + length > section->sh_size)
		return -1;
	memcpy(version, info + TEXT_AT, length);
	/* "go1.19.8", "devel go1.27-0a1b2c3", "go1.22.1 X:boringcrypto" */
	release = strstr(version, "go1.");
	return release && sscanf(release, "go1.%d", minor) == 1 ? 0 : -1;
}

/* Go 1.23 put syscallbp before goid, Go 1.25 took ret out of gobuf, which lies before it too. */
static uint32_t goid_offset_of(int go_minor)
{
	return go_minor == 23 || go_minor == 24 ? 160 : 152;
}

static int check_go(struct binary *binary)
{
	const Elf64_Shdr *buildinfo;

	if (!is_x86_64_elf(binary))
		return fail(FAIL_NOT_GO, "%s is not an x86-64 ELF file: trace a Go program",
			    binary->name);
	buildinfo = section_named(binary, ".go.buildinfo");
	if (!buildinfo)
		return fail(FAIL_NOT_GO,
			    "%s is not a Go program (no .go.buildinfo): trace a Go program",
			    binary->name);
	if (read_go_minor(binary, buildinfo, &binary->go_minor))
		return fail(FAIL_NOT_GO,
			    "%s does not tell its Go version: build it with Go 1.18 or newer",
			    binary->name);
	binary->goid_offset = goid_offset_of(binary->go_minor);
	if (!symbol_table(binary))
		return fail(FAIL_STRIPPED,
			    "%s is stripped (no .symtab): build it without -ldflags=-s and do not "
			    "strip it",
			    binary->name);
	return 0;
}

static int map_file(const char *path, struct binary *binary)
{
	struct stat status;
	void *data = MAP_FAILED;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &status))
		goto out;
	/* An empty file cannot be mapped; one byte short of everything will do to refuse it. */
	data = mmap(NULL, status.st_size ? status.st_size : 1, PROT_READ, MAP_PRIVATE, fd, 0);
	binary->bytes = status.st_size;
out:
	if (fd >= 0)
		close(fd);
	if (data != MAP_FAILED) {
		binary->data = data;
		return 0;
	}
	if (errno == EACCES || errno == EPERM)
		return fail(FAIL_NO_PERMISSION, "no permission to read %s: run as root",
			    binary->name);
	if (errno == ENOENT || errno == ESRCH)
		return fail(FAIL_NO_PROCESS, "%s went away (%s): its process has exited",
			    binary->name, strerror(errno));
	return fail(FAIL_NOT_GO, "cannot read %s (%s): trace a Go program", binary->name,
		    strerror(errno));
}

int binary_open(const char *path, const char *name, struct binary *binary)
{
	int code;

	memset(binary, 0, sizeof(*binary));
	binary->name = name;
	code = map_file(path, binary);
	if (code)
		return code;
	code = check_go(binary);
	if (code)
		binary_close(binary);
	return code;
}

/* Uprobes are set by file offset: the place of an address in the segment that loads it. */
static const unsigned char *code_at(const struct binary *binary, uint64_t address, uint64_t bytes,
				    uint64_t *offset)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)binary->data;

	for (size_t index = 0; index < header->e_phnum; index++) {
		const Elf64_Phdr *segment =
		    piece(binary, header->e_phoff + index * sizeof(Elf64_Phdr), sizeof(Elf64_Phdr));

		if (!segment || segment->p_type != PT_LOAD || !(segment->p_flags & PF_X) ||
		    address < segment->p_vaddr || address - segment->p_vaddr >= segment->p_filesz)
			continue;
		*offset = address - segment->p_vaddr + segment->p_offset;
		return piece(binary, *offset, bytes);
	}
	return NULL;
}

int binary_function(const struct binary *binary, const char *symbol, struct function *function)
{
	const Elf64_Shdr *table = symbol_table(binary);
	const Elf64_Shdr *names = section_at(binary, table->sh_link);
	const Elf64_Sym *symbols = piece(binary, table->sh_offset, table->sh_size);
	size_t count = symbols ? table->sh_size / sizeof(*symbols) : 0;

	for (size_t index = 0; index < count; index++) {
		const char *name;

		if (ELF64_ST_TYPE(symbols[index].st_info) != STT_FUNC || !symbols[index].st_size)
			continue;
		name = string_at(binary, names, symbols[index].st_name);
		if (!name || strcmp(name, symbol))
			continue;
		function->address = symbols[index].st_value;
		function->bytes = symbols[index].st_size;
		function->code =
		    code_at(binary, function->address, function->bytes, &function->offset);
		if (function->code)
			return 0;
	}
	return fail(
	    FAIL_NOT_GO,
	    "%s has no function %s: trace a Go program that uses crypto/tls (net/http does)",
	    binary->name, symbol);
}

void binary_close(struct binary *binary)
{
	if (binary->data)
		munmap((void *)binary->data, binary->bytes ? binary->bytes : 1);
	binary->data = NULL;
}
