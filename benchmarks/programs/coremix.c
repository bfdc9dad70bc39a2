/* What small embedded workloads do, in the spirit of CoreMark and in code of its own: linked lists that are searched,
 * reversed and merge-sorted; 16-bit matrices; a state machine that classifies numbers in text; a CRC over it all. */
#include "bench.h"

const char bench_name[] = "coremix";

typedef struct item { struct item *next; i32 key; u16 tag; } item;

enum { ITEMS = 240, M = 14, TEXT = 420 };
static item pool[ITEMS];
static int16_t left[M][M], right[M][M];
static i32 product[M][M];
static char text[TEXT + 1];

static u16 crc16(u16 crc, u32 value) {
    for (int bit = 0; bit < 32; bit++) {
        u16 carry = (u16)((crc ^ value) & 1);
        crc >>= 1;
        if (carry) crc ^= 0xA001;
        value >>= 1;
    }
    return crc;
}

static int by_key(const item *x, const item *y) { return x->key < y->key ? -1 : x->key > y->key; }
static int by_tag(const item *x, const item *y) { return x->tag < y->tag ? -1 : x->tag > y->tag; }

static item *merge_sort(item *list, int (*order)(const item *, const item *)) {
    for (u32 run = 1;; run *= 2) {
        item *rest = list, *head = NULL, **end = &head;
        u32 merges = 0;
        while (rest) {
            item *p = rest, *q = rest;
            u32 np = 0, nq = run;
            merges++;
            while (np < run && q) { np++; q = q->next; }
            while (np > 0 || (nq > 0 && q)) {
                item *e;
                if (np > 0 && (nq == 0 || !q || order(p, q) <= 0)) { e = p; p = p->next; np--; }
                else { e = q; q = q->next; nq--; }
                *end = e;
                end = &e->next;
            }
            rest = q;
        }
        *end = NULL;
        list = head;
        if (merges <= 1) return list;
    }
}

static item *reverse(item *list) {
    item *done = NULL;
    while (list) { item *next = list->next; list->next = done; done = list; list = next; }
    return done;
}

static u16 lists(u64 *seed, u16 crc) {
    item *list = NULL;
    for (int i = 0; i < ITEMS; i++) {
        u64 r = next_random(seed);
        pool[i] = (item){list, (i32)(r >> 40) - (1 << 23), (u16)r};
        list = &pool[i];
    }
    for (int i = 0; i < 24; i++) {
        u16 wanted = pool[(u32)(i * 37) % ITEMS].tag;
        u32 steps = 0;
        for (item *e = list; e && e->tag != wanted; e = e->next) steps++;
        crc = crc16(crc, steps);
        list = reverse(list);
    }
    list = merge_sort(list, by_key);
    for (item *e = list; e; e = e->next) crc = crc16(crc, (u32)e->key);
    list = merge_sort(list, by_tag);
    return crc16(crc, (u32)list->key);
}

static u16 matrices(u64 *seed, u16 crc) {
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            u64 r = next_random(seed);
            left[i][j] = (int16_t)(r & 0x3ff);
            right[i][j] = (int16_t)(r >> 20 & 0x3ff);
        }
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j++) {
                i32 dot = 0;
                for (int k = 0; k < M; k++) dot += left[i][k] * right[k][j];
                product[i][j] = dot >> (2 * turn);
            }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j++) {
                i32 cell = product[i][j];
                if (cell > 1500000) cell -= 1500000;
                left[i][j] = (int16_t)((left[i][j] + (cell & 7)) & 0x3ff);
                crc = (u16)(crc + (u16)cell);
            }
        crc = crc16(crc, (u32)product[turn][M - 1 - turn]);
    }
    return crc;
}

enum state { START, SIGN, DIGITS, FRACTION, EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS, INVALID, STATES };

static enum state scan(const char **at, u32 *moves) {
    enum state s = START;
    for (; **at && **at != ','; (*at)++) {
        char c = **at;
        int digit = c >= '0' && c <= '9';
        enum state from = s;
        switch (s) {
        case START: s = digit ? DIGITS : c == '+' || c == '-' ? SIGN : c == '.' ? FRACTION : INVALID; break;
        case SIGN: s = digit ? DIGITS : c == '.' ? FRACTION : INVALID; break;
        case DIGITS: s = digit ? DIGITS : c == '.' ? FRACTION : c == 'e' ? EXPONENT : INVALID; break;
        case FRACTION: s = digit ? FRACTION : c == 'e' ? EXPONENT : INVALID; break;
        case EXPONENT: s = digit ? EXPONENT_DIGITS : c == '+' || c == '-' ? EXPONENT_SIGN : INVALID; break;
        case EXPONENT_SIGN:
        case EXPONENT_DIGITS: s = digit ? EXPONENT_DIGITS : INVALID; break;
        default: break;
        }
        if (s != from) moves[s]++;
    }
    if (**at) (*at)++;
    return s;
}

static u16 states(u64 *seed, u16 crc) {
    static const char alphabet[] = "0123456789012345678901234567,,,,,,+-.eE";
    u32 final[STATES] = {0}, moves[STATES] = {0};
    for (int i = 0; i < TEXT; i++) text[i] = alphabet[(u32)(next_random(seed) >> 33) % (sizeof alphabet - 1)];
    for (const char *at = text; *at;) final[scan(&at, moves)]++;
    for (int i = 0; i < STATES; i++) crc = crc16(crc16(crc, final[i]), moves[i]);
    return crc;
}

u64 bench(void) {
    u64 seed = 0x123456789ABCDEFULL, sum = 0;
    u16 crc = 0xFFFF;
    for (u64 i = REPS(4300); i > 0; i--) {
        crc = lists(&seed, crc);
        crc = matrices(&seed, crc);
        crc = states(&seed, crc);
        sum = mix(sum, crc);
    }
    return sum;
}
