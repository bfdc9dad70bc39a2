/* FP: the largest singular value of a matrix given by a formula, by power iteration; conversions and divisions. */
#include "bench.h"

const char bench_name[] = "spectral";

enum { N = 120 };
static double u[N], v[N], w[N];

static double cell(int i, int j) { return 1.0 / (double)((i + j) * (i + j + 1) / 2 + i + 1); }

static void times(const double *x, double *y, int transposed) {
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < N; j++) sum += (transposed ? cell(j, i) : cell(i, j)) * x[j];
        y[i] = sum;
    }
}

u64 bench(void) {
    u64 sum = 0;
    for (u64 turn = REPS(180); turn > 0; turn--) {
        double uv = 0, vv = 0, ratio;
        u64 bits;
        for (int i = 0; i < N; i++) u[i] = 1.0 + (double)(turn % 17) / 64;
        for (int k = 0; k < 10; k++) {
            times(u, w, 0);
            times(w, v, 1);
            times(v, w, 0);
            times(w, u, 1);
        }
        for (int i = 0; i < N; i++) {
            uv += u[i] * v[i];
            vv += v[i] * v[i];
        }
        ratio = uv / vv;
        memcpy(&bits, &ratio, sizeof bits);
        sum = mix(sum, bits);
    }
    return sum;
}
