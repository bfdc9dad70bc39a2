/* Block copies from 16 bytes to 256 KiB, aligned alike and not, and fills. */
#include "bench.h"

const char bench_name[] = "memcpy";

enum { SIZE = 256 << 10 };
static u8 from[SIZE + 64] __attribute__((aligned(64))), to[SIZE + 64] __attribute__((aligned(64)));

/* Not inlined and not known to the compiler as memcpy of a constant size. */
static void *(*volatile copy)(void *restrict, const void *restrict, size_t) = memcpy;
static void *(*volatile fill)(void *, int, size_t) = memset;

u64 bench(void) {
    u64 seed = 11, sum = 0;
    for (u32 i = 0; i < sizeof from; i++) from[i] = (u8)(next_random(&seed) >> 56);
    for (u64 turn = REPS(2400); turn > 0; turn--) {
        for (u32 size = 16; size <= SIZE; size *= 4) {
            u32 times = SIZE / size < 256 ? SIZE / size : 256;
            for (u32 i = 0; i < times; i++) {
                u32 offset = (u32)(next_random(&seed) >> 60) * 8 % 64;
                copy(to + offset, from + (offset + i * size) % (SIZE - size + 1) / 8 * 8, size);
            }
            sum = mix(sum, *(u64 *)(to + size / 16 * 8));
        }
        for (u32 i = 0; i < 64; i++) copy(to + i + 1, from + 3 * i, 333);
        sum = mix(sum, to[64 + turn % 200]);
        fill(to + turn % 64, (int)turn, 32 << 10);
    }
    for (u32 i = 0; i < SIZE; i += 8) sum = mix(sum, *(u64 *)(to + i));
    return sum;
}
