/* Held out: N queens three ways (bit masks, arrays with backtracking, and counting symmetric boards). */
#include "bench.h"

const char bench_name[] = "queens";

enum { MOST = 12 };
static i32 row_of[MOST];

static u64 masks(u32 all, u32 columns, u32 left, u32 right) {
    u64 count = 0;
    if (columns == all) return 1;
    for (u32 open = all & ~(columns | left | right); open;) {
        u32 bit = open & -open;
        open ^= bit;
        count += masks(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}

static int safe(int n) {
    for (int i = 0; i < n; i++) {
        i32 d = row_of[i] - row_of[n];
        if (d == 0 || d == n - i || d == i - n) return 0;
    }
    return 1;
}

static u64 arrays(int size, u64 *shape) {
    u64 count = 0;
    int n = 0;
    row_of[0] = -1;
    while (n >= 0) {
        while (++row_of[n] < size && !safe(n)) {}
        if (row_of[n] >= size) { n--; continue; }
        if (n + 1 < size) { row_of[++n] = -1; continue; }
        int mirrored = 1;
        for (int i = 0; i < size; i++)
            if (row_of[i] + row_of[size - 1 - i] != size - 1) { mirrored = 0; break; }
        *shape = *shape * 3 + (u64)mirrored;
        count++;
    }
    return count;
}

u64 bench(void) {
    u64 sum = 0, shape = 0;
    for (u64 turn = REPS(500); turn > 0; turn--) {
        u32 size = 8 + (u32)(turn % 4);
        sum = mix(sum, masks((1u << size) - 1, 0, 0, 0));
        sum = mix(sum, arrays(8, &shape));
        sum = mix(sum, shape);
    }
    return sum;
}
