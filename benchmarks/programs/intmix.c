/* Integer mix: a sieve (byte stores, strides), an integer matrix product (loads, multiply), and a generator with
 * divisions and bit counting (long dependence chains). */
#include "bench.h"

const char bench_name[] = "intmix";

enum { LIMIT = 100000, N = 64 };
static u8 composite[LIMIT];
static u32 a[N][N], b[N][N], c[N][N];

static u64 sieve(void) {
    u64 found = 0;
    memset(composite, 0, sizeof composite);
    for (u32 i = 2; i < LIMIT; i++) {
        if (composite[i]) continue;
        found += i;
        for (u64 j = (u64)i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    return found;
}

static u64 matrix(u64 *seed) {
    u64 sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (u32)next_random(seed);
            b[i][j] = (u32)next_random(seed);
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            u32 dot = 0;
            for (int k = 0; k < N; k++) dot += a[i][k] * b[k][j];
            c[i][j] = dot;
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) sum = sum * 31 + c[i][j];
    return sum;
}

static u64 chain(u64 *seed, u64 turns) {
    u64 sum = 0;
    for (u64 i = 0; i < turns; i++) {
        u64 x = next_random(seed), ones = 0;
        for (u64 y = x; y; y &= y - 1) ones++;
        sum += x % (ones + 3) + (u64)((i64)x / (i64)(i + 1));
    }
    return sum;
}

u64 bench(void) {
    u64 sum = 0, seed = 88172645463325252ULL;
    for (u64 i = REPS(330); i > 0; i--) {
        sum = mix(sum, sieve());
        sum = mix(sum, matrix(&seed));
        sum = mix(sum, chain(&seed, 10000));
    }
    return sum;
}
