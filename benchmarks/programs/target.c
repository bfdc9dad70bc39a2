/* The surroundings on bare metal: console, page tables, and the line that the runner checks. */
#include "bench.h"

#define UART ((volatile u8 *)0x10000000)  /* an ns16550 in pyvirt, QEMU's virt and Spike */
#define POOL 0x84000000UL                 /* RAM behind the program that paged_area hands out */
#define AREA 0x1000000000UL               /* where it appears, in 4 KiB pages */
#define ALIAS 0x40000000UL                /* RAM appears again this far above itself, for U-mode */
enum { V = 1, R = 2, W = 4, X = 8, U = 16, A = 64, D = 128, KERNEL = V | R | W | X | A | D, PAGE = 4096 };

void leave(u64 code);
void enter_supervisor(u64 satp);
u64 round_trips(u64 count, u64 seed, u64 alias);

static u64 root[512] __attribute__((aligned(PAGE)));
static u64 middle[512] __attribute__((aligned(PAGE)));
static u64 leaves[32][512] __attribute__((aligned(PAGE)));

void *memset(void *to, int byte, size_t n) {
    u8 *p = to;
    u64 word = (u8)byte * 0x0101010101010101ULL;
    while (n > 0 && (uintptr_t)p % 8) { *p++ = (u8)byte; n--; }
    for (; n >= 8; n -= 8, p += 8) *(u64 *)p = word;
    while (n-- > 0) *p++ = (u8)byte;
    return to;
}

/* Words where both sides allow it, 64 bytes a turn, as C libraries do; bytes where they do not. */
void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    u8 *p = to;
    const u8 *q = from;
    if (((uintptr_t)p ^ (uintptr_t)q) % 8 == 0) {
        while (n > 0 && (uintptr_t)p % 8) { *p++ = *q++; n--; }
        for (; n >= 64; n -= 64, p += 64, q += 64) {
            u64 *t = (u64 *)p;
            const u64 *f = (const u64 *)q;
            u64 a = f[0], b = f[1], c = f[2], d = f[3], e = f[4], g = f[5], h = f[6], i = f[7];
            t[0] = a; t[1] = b; t[2] = c; t[3] = d; t[4] = e; t[5] = g; t[6] = h; t[7] = i;
        }
        for (; n >= 8; n -= 8, p += 8, q += 8) *(u64 *)p = *(const u64 *)q;
    }
    while (n-- > 0) *p++ = *q++;
    return to;
}

static void put(const char *text) {
    while (*text) *UART = (u8)*text++;
}

static void put_number(u64 value, unsigned base, int digits) {
    char text[24], *p = text + sizeof text;
    *--p = 0;
    do { *--p = "0123456789abcdef"[value % base]; value /= base; } while (--digits > 0 || value);
    put(p);
}

static void paging(void) {
    root[0] = KERNEL;                                /* devices, one to one */
    root[2] = 0x80000000UL >> 2 | KERNEL;            /* RAM, one to one */
    root[3] = 0x80000000UL >> 2 | KERNEL | U;        /* RAM once more, at ALIAS */
    root[AREA >> 30] = (u64)middle >> 2 | V;
    enter_supervisor(8UL << 60 | (u64)root >> 12);
}

void *paged_area(size_t bytes) {
    u64 pages = bytes / PAGE;  /* a power of two, so that an odd factor permutes them */
    for (u64 i = 0; i < pages; i++) {
        u64 pa = POOL + (i * 1237 & (pages - 1)) * PAGE;
        leaves[i / 512][i % 512] = pa >> 2 | V | R | W | A | D;
        memset((void *)pa, 0, PAGE);
    }
    for (u64 i = 0; i * 512 < pages; i++) middle[i] = (u64)leaves[i] >> 2 | V;
    paging();
    return (void *)AREA;
}

static u64 total;

u64 service(u64 value) {
    total += value;
    return (value ^ total) + 7;
}

u64 user_calls(u64 count, u64 seed) {
    paging();
    return round_trips(count, seed, ALIAS);
}

static u64 retired(void) {
    u64 value;
    __asm__ volatile("csrr %0, instret" : "=r"(value));
    return value;
}

void start(void) {
    u64 before = retired();
    u64 sum = bench();
    u64 count = retired() - before;
    put(bench_name);
    put(" ");
    put_number(sum, 16, 16);
    put("\ninstret ");
    put_number(count, 10, 1);
    put("\n");
    leave(0);
}
