/* What a program and its surroundings know of each other.
 *
 * A program defines bench_name and bench(), whose result is its checksum. The same source is compiled for the host
 * too (with BENCH_NATIVE), where its result is what every emulator must print. So: no undefined behaviour, no
 * dependence on the width of long double, char's sign or the address of anything.
 *
 * SCALE is the length of a run in percent; 100 is at least a second on pyvirt.
 */
#ifndef BENCH_H
#define BENCH_H
#include <stddef.h>
#include <stdint.h>

#ifndef SCALE
#define SCALE 100
#endif
/* Repetitions of a part that runs `full` times at full length. */
#define REPS(full) ((uint64_t)(full) * SCALE / 100 > 0 ? (uint64_t)(full) * SCALE / 100 : 1)

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

extern const char bench_name[];
u64 bench(void);

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);

/* What needs privileged instructions; on the host, plain memory and plain calls. */
void *paged_area(size_t bytes);              /* zeroed, 4 KiB pages under Sv39, scattered over RAM; S-mode from here on */
u64 user_calls(u64 count, u64 seed);         /* makes `count` ecalls from U-mode to S-mode, folding the results */

static inline u64 next_random(u64 *state) {
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1DULL;
}

static inline u64 mix(u64 sum, u64 value) {
    sum ^= value;
    sum *= 0x9E3779B97F4A7C15ULL;
    return sum ^ (sum >> 29);
}
#endif
