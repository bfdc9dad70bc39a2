/* Held out: shortest paths in a grid with walls (Dijkstra on a binary heap), and components by union-find. */
#include "bench.h"

const char bench_name[] = "graph";

enum { W = 96, H = 96, N = W * H, FAR = 0x7FFFFFFF };
typedef struct { i32 cost; u32 cell; } entry;
static u8 weight[N];
static i32 distance[N];
static u32 parent[N];
static entry heap[4 * N + 4];
static u32 held;

static void push(entry e) {
    u32 i = held++;
    while (i > 0 && heap[(i - 1) / 2].cost > e.cost) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = e;
}

static entry pop(void) {
    entry top = heap[0], last = heap[--held];
    u32 i = 0;
    for (u32 child; (child = 2 * i + 1) < held; i = child) {
        if (child + 1 < held && heap[child + 1].cost < heap[child].cost) child++;
        if (heap[child].cost >= last.cost) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void relax(u32 cell, i32 cost) {
    if (weight[cell] == 0) return;
    cost += weight[cell];
    if (cost < distance[cell]) {
        distance[cell] = cost;
        push((entry){cost, cell});
    }
}

static u64 paths(u32 from) {
    u64 sum = 0;
    for (u32 i = 0; i < N; i++) distance[i] = FAR;
    distance[from] = 0;
    held = 0;
    push((entry){0, from});
    while (held > 0) {
        entry e = pop();
        if (e.cost > distance[e.cell]) continue;
        u32 x = e.cell % W, y = e.cell / W;
        if (x > 0) relax(e.cell - 1, e.cost);
        if (x + 1 < W) relax(e.cell + 1, e.cost);
        if (y > 0) relax(e.cell - W, e.cost);
        if (y + 1 < H) relax(e.cell + W, e.cost);
    }
    for (u32 i = 0; i < N; i++) sum = sum * 7 + (u64)(u32)distance[i];
    return sum;
}

static u32 leader(u32 x) {
    while (parent[x] != x) x = parent[x] = parent[parent[x]];
    return x;
}

static u64 components(void) {
    u64 sum = 0;
    for (u32 i = 0; i < N; i++) parent[i] = i;
    for (u32 i = 0; i < N; i++) {
        if (weight[i] == 0) continue;
        if (i % W && weight[i - 1]) parent[leader(i)] = leader(i - 1);
        if (i >= W && weight[i - W]) parent[leader(i)] = leader(i - W);
    }
    for (u32 i = 0; i < N; i++) sum += leader(i) == i;
    return sum;
}

u64 bench(void) {
    u64 seed = 31, sum = 0;
    for (u64 turn = REPS(500); turn > 0; turn--) {
        for (u32 i = 0; i < N; i++) {
            u64 r = next_random(&seed);
            weight[i] = r >> 62 == 0 ? 0 : (u8)(1 + (r >> 40) % 9);
        }
        sum = mix(sum, paths((u32)(turn * 131 % N)));
        sum = mix(sum, components());
    }
    return sum;
}
