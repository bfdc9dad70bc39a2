/* FP: the outer planets' orbits, a symplectic integrator with square root and division. */
#include "bench.h"

const char bench_name[] = "nbody";

enum { BODIES = 5 };
typedef struct { double at[3], speed[3], mass; } body;

static double root(double x) {
#ifdef BENCH_NATIVE
    __asm__("sqrtsd %1, %0" : "=x"(x) : "x"(x));
#else
    __asm__("fsqrt.d %0, %1" : "=f"(x) : "f"(x));
#endif
    return x;
}

static body bodies[BODIES];

static void place(void) {
    u64 seed = 1;
    double drift[3] = {0, 0, 0};
    for (int i = 0; i < BODIES; i++) {
        body *b = &bodies[i];
        b->mass = i == 0 ? 39.5 : 0.04 / (i * i);
        for (int k = 0; k < 3; k++) {
            b->at[k] = i == 0 ? 0 : 5.0 * i + (double)(next_random(&seed) >> 40) / 16777216.0;
            b->speed[k] = i == 0 ? 0 : ((double)(next_random(&seed) >> 40) / 16777216.0 - 0.5) * (k == 2 ? 0.1 : 2.0);
            drift[k] += b->speed[k] * b->mass;
        }
    }
    for (int k = 0; k < 3; k++) bodies[0].speed[k] = -drift[k] / bodies[0].mass;
}

static void advance(double step) {
    for (int i = 0; i < BODIES; i++) {
        body *b = &bodies[i];
        for (int j = i + 1; j < BODIES; j++) {
            body *c = &bodies[j];
            double dx = b->at[0] - c->at[0], dy = b->at[1] - c->at[1], dz = b->at[2] - c->at[2];
            double square = dx * dx + dy * dy + dz * dz;
            double pull = step / (square * root(square));
            double on_b = c->mass * pull, on_c = b->mass * pull;
            b->speed[0] -= dx * on_b; b->speed[1] -= dy * on_b; b->speed[2] -= dz * on_b;
            c->speed[0] += dx * on_c; c->speed[1] += dy * on_c; c->speed[2] += dz * on_c;
        }
    }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) bodies[i].at[k] += step * bodies[i].speed[k];
}

u64 bench(void) {
    u64 sum = 0;
    place();
    for (u64 i = REPS(1600000); i > 0; i--) advance(0.001);
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) {
            u64 bits;
            memcpy(&bits, &bodies[i].at[k], sizeof bits);
            sum = mix(sum, bits);
        }
    return sum;
}
