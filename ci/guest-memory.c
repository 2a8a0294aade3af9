/* guest-memory: a test guest's program that keeps changing its memory, and looks whether all of it stays as it was written. Part of the guest
 * image (ci/guest-image).
 *
 *   guest-memory MEGABYTES PAGES   changes so many pages a second of so much memory, until SIGTERM; then prints how many it has changed
 *
 * Before a page is changed, what was written last is looked for in each of its lines. The status is 0 only when all was right, at the end of
 * every page once more.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	LINES = 64, /* of 64 bytes each */
	STEP = 8,   /* words from one line to the next */
};

static volatile sig_atomic_t ended;

static void end(int signal)
{
	ended = signal;
}

/* What stands in the first word of a line after `round` changes of the page (Fibonacci hashing; 0 before the first one). */
static uint64_t word(uint64_t page, uint64_t round, uint64_t line)
{
	uint64_t value = ((page * LINES + line) << 32 | round) * 0x9e3779b97f4a7c15;
	return round ? value ^ value >> 29 : 0;
}

static void check(const uint64_t *memory, uint64_t page, uint64_t round)
{
	for (uint64_t line = 0; line < LINES; line++) {
		uint64_t is = memory[page * PAGE / 8 + line * STEP];
		if (is != word(page, round, line)) {
			fprintf(stderr, "guest-memory: line %llu of page %llu is %llx after %llu changes\n", (unsigned long long)line,
				(unsigned long long)page, (unsigned long long)is, (unsigned long long)round);
			exit(1);
		}
	}
}

int main(int count, char **words)
{
	uint64_t pages = count == 3 ? strtoull(words[1], NULL, 10) * 256 : 0, rate = pages ? strtoull(words[2], NULL, 10) : 0;
	if (!rate) {
		fputs("guest-memory: see the head of ci/guest-memory.c\n", stderr);
		return 64;
	}
	uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), changed = 0;
	if (memory == MAP_FAILED) {
		perror("guest-memory");
		return 1;
	}
	signal(SIGTERM, end);
	while (!ended) {
		/* Twenty times a second. */
		for (uint64_t now = 0; now < rate / 20 + 1; now++, changed++) {
			uint64_t page = changed % pages, round = changed / pages;
			check(memory, page, round);
			for (uint64_t line = 0; line < LINES; line++)
				memory[page * PAGE / 8 + line * STEP] = word(page, round + 1, line);
		}
		usleep(50000);
	}
	for (uint64_t page = 0; page < pages; page++)
		check(memory, page, changed / pages + (page < changed % pages));
	printf("%llu\n", (unsigned long long)changed);
	return 0;
}
