/* Nothing: what remains is the cost of starting an emulator and loading a program. */
#include "bench.h"

const char bench_name[] = "startup";

u64 bench(void) {
    return 1;
}
