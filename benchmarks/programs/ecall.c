/* Traps: ecall from U-mode to an S-mode handler that saves and restores what C may clobber, under Sv39. */
#include "bench.h"

const char bench_name[] = "ecall";

u64 bench(void) {
    return user_calls(REPS(15000000), 3);
}
