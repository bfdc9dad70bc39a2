/* The host's surroundings: run the program, print its line. */
#include <stdio.h>
#include "bench.h"

static u8 area[64 << 20] __attribute__((aligned(4096)));

void *paged_area(size_t bytes) {
    return bytes <= sizeof area ? area : NULL;
}

u64 user_calls(u64 count, u64 seed) {
    u64 a0 = seed, total = 0;
    for (u64 i = 0; i < count; i++) {
        total += a0;
        a0 = (a0 ^ total) + 7;
    }
    return a0;
}

int main(void) {
    printf("%s %016llx\n", bench_name, (unsigned long long)bench());
    return 0;
}
