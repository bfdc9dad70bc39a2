/* Held out: text. Splits generated lines into words, counts them in a trie, and matches globs against all of them. */
#include "bench.h"

const char bench_name[] = "words";

enum { SIZE = 24 << 10, NODES = 40000 };
typedef struct { u16 child[26]; u32 count; } node;
static char text[SIZE + 1];
static node nodes[NODES];
static u32 used;

static void write_text(u64 *seed) {
    u32 n = 0;
    while (n + 16 < SIZE) {
        u64 r = next_random(seed);
        u32 letters = 2 + (u32)(r & 7), state = (u32)(r >> 8) % 97;
        for (u32 i = 0; i < letters; i++) {
            text[n++] = (char)((r >> 60) < 2 && i == 0 ? 'A' + state % 26 : 'a' + state % 26);
            state = (state * 31 + i + (u32)(r >> (20 + i) & 1)) % 97;
        }
        if ((r >> 50 & 7) == 0) text[n++] = ',';
        text[n++] = (r >> 40 & 15) == 0 ? '\n' : ' ';
    }
    text[n] = 0;
}

static int letter(char c) {
    if (c >= 'a' && c <= 'z') return c - 'a';
    if (c >= 'A' && c <= 'Z') return c - 'A';
    return -1;
}

static int matches(const char *glob, const char *word, u32 length) {
    for (; *glob; glob++) {
        if (*glob == '*') {
            for (u32 skip = 0; skip <= length; skip++)
                if (matches(glob + 1, word + skip, length - skip)) return 1;
            return 0;
        }
        if (length == 0 || (*glob != '?' && *glob - 'a' != letter(*word))) return 0;
        word++;
        length--;
    }
    return length == 0;
}

static u64 count_words(void) {
    static const char *const globs[] = {"a*e", "*th*", "?b?*", "*x", "s*t*r"};
    u64 sum = 0;
    used = 1;
    memset(nodes, 0, sizeof(node));
    for (const char *p = text; *p;) {
        while (*p && letter(*p) < 0) p++;
        const char *word = p;
        u32 at = 0;
        for (int c; (c = letter(*p)) >= 0; p++) {
            if (!nodes[at].child[c]) {
                if (used == NODES) return 0xBAD;
                memset(&nodes[used], 0, sizeof(node));
                nodes[at].child[c] = (u16)used++;
            }
            at = nodes[at].child[c];
        }
        nodes[at].count++;
        for (u32 g = 0; g < sizeof globs / sizeof *globs; g++) sum = sum * 2 % 1000003 + (u64)matches(globs[g], word, (u32)(p - word));
    }
    return sum;
}

static u64 visit(u32 at, u64 depth) {
    u64 sum = nodes[at].count * depth;
    for (int c = 0; c < 26; c++)
        if (nodes[at].child[c]) sum = sum * 5 + visit(nodes[at].child[c], depth + 1);
    return sum;
}

u64 bench(void) {
    u64 seed = 77, sum = 0;
    for (u64 turn = REPS(280); turn > 0; turn--) {
        write_text(&seed);
        sum = mix(sum, count_words());
        sum = mix(sum, visit(0, 0));
    }
    return sum;
}
