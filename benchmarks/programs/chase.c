/* Pointer chasing under Sv39: random cycles over 4 KiB pages, in a working set of 1 MiB (256 pages) and one of 16 MiB
 * (4,096 pages: more than any TLB of an emulator), with a little work at each node. */
#include "bench.h"

const char bench_name[] = "chase";

enum { SMALL = 1 << 20, LARGE = 16 << 20, STRIDE = 256 };
typedef struct node { u32 next, value; } node;

static node *at(u8 *area, u32 i) { return (node *)(area + (u64)i * STRIDE + (i * 40503U >> 4 & 0x1F) * 8 % (STRIDE - 8)); }

/* One cycle through all nodes (Sattolo's shuffle). */
static void link(u8 *area, u32 n, u64 *seed) {
    for (u32 i = 0; i < n; i++) *at(area, i) = (node){i, (u32)next_random(seed)};
    for (u32 i = n - 1; i > 0; i--) {
        u32 j = (u32)(next_random(seed) >> 32) % i, t = at(area, i)->next;
        at(area, i)->next = at(area, j)->next;
        at(area, j)->next = t;
    }
}

static u64 walk(u8 *area, u32 steps) {
    u64 sum = 0;
    u32 i = 0;
    while (steps-- > 0) {
        node *p = at(area, i);
        sum += p->value ^ i;
        if (p->value & 1) p->value += 3;
        i = p->next;
    }
    return sum;
}

u64 bench(void) {
    u64 seed = 5, sum = 0;
    u8 *area = paged_area(LARGE);
    link(area, SMALL / STRIDE, &seed);
    for (u64 i = REPS(420); i > 0; i--) sum = mix(sum, walk(area, 50000));
    link(area, LARGE / STRIDE, &seed);
    for (u64 i = REPS(100); i > 0; i--) sum = mix(sum, walk(area, 50000));
    return sum;
}
