/* FP: solve dense linear equations by Gaussian elimination with partial pivoting, and fold the solution. */
#include "bench.h"

const char bench_name[] = "linpack";

enum { N = 100 };
static double a[N][N], b[N];

static double size(double x) { return x < 0 ? -x : x; }

static void fill(u64 *seed) {
    for (int i = 0; i < N; i++) {
        b[i] = 0;
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(i64)(next_random(seed) >> 32) / 4294967296.0 - 0.5;
            b[i] += a[i][j];
        }
    }
}

static void add_row(double *restrict to, const double *restrict from, double factor, int n) {
    for (int i = 0; i < n; i++) to[i] += factor * from[i];
}

static void solve(void) {
    for (int k = 0; k < N; k++) {
        int best = k;
        for (int i = k + 1; i < N; i++)
            if (size(a[i][k]) > size(a[best][k])) best = i;
        if (best != k) {
            for (int j = k; j < N; j++) { double t = a[k][j]; a[k][j] = a[best][j]; a[best][j] = t; }
            double t = b[k];
            b[k] = b[best];
            b[best] = t;
        }
        for (int i = k + 1; i < N; i++) {
            double factor = -a[i][k] / a[k][k];
            add_row(&a[i][k], &a[k][k], factor, N - k);
            b[i] += factor * b[k];
        }
    }
    for (int k = N; k-- > 0;) {
        double x = b[k];
        for (int j = k + 1; j < N; j++) x -= a[k][j] * b[j];
        b[k] = x / a[k][k];
    }
}

u64 bench(void) {
    u64 seed = 13, sum = 0;
    for (u64 turn = REPS(460); turn > 0; turn--) {
        fill(&seed);
        solve();
        for (int i = 0; i < N; i++) {
            u64 bits;
            if (size(b[i] - 1.0) > 1e-6) return 0xBAD;
            memcpy(&bits, &b[i], sizeof bits);
            sum = mix(sum, bits);
        }
    }
    return sum;
}
