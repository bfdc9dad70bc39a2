/* Sorting: quicksort with insertion sort below 16, heap sort, bottom-up merge sort, and binary searches in the result. */
#include "bench.h"

const char bench_name[] = "sort";

enum { N = 20000 };
static u32 source[N], work[N], spare[N];

static void insertion(u32 *v, i64 n) {
    for (i64 i = 1; i < n; i++) {
        u32 x = v[i];
        i64 j = i;
        for (; j > 0 && v[j - 1] > x; j--) v[j] = v[j - 1];
        v[j] = x;
    }
}

static void quick(u32 *v, i64 n) {
    while (n > 16) {
        u32 a = v[0], b = v[n / 2], c = v[n - 1];
        u32 pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        i64 i = 0, j = n - 1;
        while (i <= j) {
            while (v[i] < pivot) i++;
            while (v[j] > pivot) j--;
            if (i <= j) { u32 t = v[i]; v[i++] = v[j]; v[j--] = t; }
        }
        if (j + 1 < n - i) { quick(v, j + 1); v += i; n -= i; }
        else { quick(v + i, n - i); n = j + 1; }
    }
    insertion(v, n);
}

static void sift(u32 *v, i64 at, i64 n) {
    u32 x = v[at];
    for (i64 child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && v[child + 1] > v[child]) child++;
        if (v[child] <= x) break;
        v[at] = v[child];
    }
    v[at] = x;
}

static void heap(u32 *v, i64 n) {
    for (i64 i = n / 2; i-- > 0;) sift(v, i, n);
    for (i64 i = n; --i > 0;) {
        u32 t = v[0];
        v[0] = v[i];
        v[i] = t;
        sift(v, 0, i);
    }
}

static void merge(u32 *v, u32 *other, i64 n) {
    for (i64 width = 1; width < n; width *= 2) {
        for (i64 at = 0; at < n; at += 2 * width) {
            i64 middle = at + width < n ? at + width : n, end = at + 2 * width < n ? at + 2 * width : n;
            i64 i = at, j = middle;
            for (i64 k = at; k < end; k++) other[k] = i < middle && (j >= end || v[i] <= v[j]) ? v[i++] : v[j++];
        }
        for (i64 i = 0; i < n; i++) v[i] = other[i];
    }
}

static u64 searches(const u32 *v, i64 n, u64 *seed, u64 count) {
    u64 sum = 0;
    while (count-- > 0) {
        u32 x = (u32)next_random(seed);
        i64 low = 0, high = n;
        while (low < high) {
            i64 middle = (low + high) / 2;
            if (v[middle] < x) low = middle + 1; else high = middle;
        }
        sum += (u64)low;
    }
    return sum;
}

static u64 check(const u32 *v, i64 n) {
    u64 sum = 0;
    for (i64 i = 0; i < n; i++) {
        if (i > 0 && v[i - 1] > v[i]) return 0xBAD;
        sum = sum * 0x100000001B3ULL + v[i];
    }
    return sum;
}

u64 bench(void) {
    u64 seed = 42, sum = 0;
    for (u64 turn = REPS(68); turn > 0; turn--) {
        for (i64 i = 0; i < N; i++) source[i] = (u32)next_random(&seed);
        for (int kind = 0; kind < 3; kind++) {
            for (i64 i = 0; i < N; i++) work[i] = source[i];
            if (kind == 0) quick(work, N);
            else if (kind == 1) heap(work, N);
            else merge(work, spare, N);
            sum = mix(sum, check(work, N));
        }
        sum = mix(sum, searches(work, N, &seed, N));
    }
    return sum;
}
