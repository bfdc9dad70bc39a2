/* Held out, FP: a radix-2 FFT and its inverse with twiddles by recurrence, and an error check. */
#include "bench.h"

const char bench_name[] = "fourier";

enum { BITS = 10, N = 1 << BITS };
static double re[N], im[N], was[N];

/* cos and sin of 2 pi / 2^k, from the half-angle formulas. */
static double cosines[BITS + 1], sines[BITS + 1];

static double root(double x) {
#ifdef BENCH_NATIVE
    __asm__("sqrtsd %1, %0" : "=x"(x) : "x"(x));
#else
    __asm__("fsqrt.d %0, %1" : "=f"(x) : "f"(x));
#endif
    return x;
}

static void angles(void) {
    cosines[0] = 1; sines[0] = 0;
    cosines[1] = -1; sines[1] = 0;
    for (int k = 2; k <= BITS; k++) {
        cosines[k] = k == 2 ? 0 : root((1 + cosines[k - 1]) / 2);
        sines[k] = k == 2 ? 1 : root((1 - cosines[k - 1]) / 2);
    }
}

static void transform(int inverse) {
    for (u32 i = 1, j = 0; i < N; i++) {
        u32 bit = N >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i < j) {
            double t = re[i]; re[i] = re[j]; re[j] = t;
            t = im[i]; im[i] = im[j]; im[j] = t;
        }
    }
    for (int k = 1; k <= BITS; k++) {
        u32 size = 1u << k, half = size / 2;
        double step_re = cosines[k], step_im = inverse ? -sines[k] : sines[k];
        for (u32 at = 0; at < N; at += size) {
            double w_re = 1, w_im = 0;
            for (u32 i = at; i < at + half; i++) {
                double t_re = re[i + half] * w_re - im[i + half] * w_im, t_im = re[i + half] * w_im + im[i + half] * w_re;
                double next = w_re * step_re - w_im * step_im;
                re[i + half] = re[i] - t_re; im[i + half] = im[i] - t_im;
                re[i] += t_re; im[i] += t_im;
                w_im = w_re * step_im + w_im * step_re;
                w_re = next;
            }
        }
    }
}

u64 bench(void) {
    u64 seed = 23, sum = 0;
    angles();
    for (u64 turn = REPS(3300); turn > 0; turn--) {
        u64 bits;
        for (int i = 0; i < N; i++) {
            was[i] = re[i] = (double)(next_random(&seed) >> 40) / 16777216.0;
            im[i] = 0;
        }
        transform(0);
        memcpy(&bits, &re[turn % N], sizeof bits);
        sum = mix(sum, bits);
        transform(1);
        for (int i = 0; i < N; i++) {
            double d = re[i] / N - was[i];
            if (d > 1e-9 || d < -1e-9) return 0xBAD;
        }
    }
    return sum;
}
