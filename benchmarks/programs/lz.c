/* Compression: LZ77 with hash chains over generated text, bytes out as literals and matches, decoded and compared. */
#include "bench.h"

const char bench_name[] = "lz";

enum { SIZE = 48 << 10, HASHES = 8192, WINDOW = 16 << 10, SHORTEST = 4, LONGEST = 255 + SHORTEST, TRIES = 12 };
static u8 text[SIZE], packed[SIZE * 2], unpacked[SIZE];
static i32 newest[HASHES], older[SIZE];

/* Words of an invented language, the frequent ones early: about what prose does to a compressor. */
static void write_text(u64 *seed) {
    static const char syllables[] = "tarenoliqumestrabidocafelunapigosuviheza";
    u32 n = 0;
    while (n < SIZE) {
        u64 r = next_random(seed);
        u32 word = (u32)(r & 0x3F) * (u32)(r >> 6 & 0x3F) >> 4;
        for (u32 w = word + 11, k = 0; k < 2 + word % 3 && n + 1 < SIZE; k++, w = w * 7 + 3) {
            text[n++] = (u8)syllables[w % 20 * 2];
            text[n++] = (u8)syllables[w % 20 * 2 + 1];
        }
        if (n < SIZE) text[n++] = r >> 60 == 0 ? '\n' : ' ';
    }
}

static u32 hash_at(const u8 *p) {
    u32 v = (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
    return v * 2654435761U >> 19;
}

static u32 match_length(const u8 *a, const u8 *b, u32 most) {
    u32 n = 0;
    while (n < most && a[n] == b[n]) n++;
    return n;
}

static void remember(u32 at) {
    if (at + SHORTEST > SIZE) return;
    u32 h = hash_at(text + at);
    older[at] = newest[h];
    newest[h] = (i32)at;
}

static u32 compress(void) {
    u32 out = 0;
    for (int i = 0; i < HASHES; i++) newest[i] = -1;
    for (u32 at = 0; at < SIZE;) {
        u32 best = 0, distance = 0;
        if (at + SHORTEST <= SIZE) {
            u32 most = SIZE - at < LONGEST ? SIZE - at : LONGEST;
            i32 from = newest[hash_at(text + at)];
            for (int t = 0; t < TRIES && from >= 0 && at - (u32)from <= WINDOW; t++, from = older[from]) {
                if (best && text[(u32)from + best] != text[at + best]) continue;
                u32 n = match_length(text + from, text + at, most);
                if (n > best) { best = n; distance = at - (u32)from; }
                if (n == most) break;
            }
        }
        if (best >= SHORTEST) {
            packed[out++] = 0xFF;  /* not in the text: starts a match */
            packed[out++] = (u8)(best - SHORTEST);
            packed[out++] = (u8)distance;
            packed[out++] = (u8)(distance >> 8);
            for (u32 end = at + best; at < end; at++) remember(at);
        } else {
            packed[out++] = text[at];
            remember(at++);
        }
    }
    return out;
}

static u32 expand(u32 size) {
    u32 out = 0;
    for (u32 in = 0; in < size;) {
        u8 c = packed[in++];
        if (c != 0xFF) { unpacked[out++] = c; continue; }
        u32 n = packed[in] + SHORTEST, distance = packed[in + 1] | (u32)packed[in + 2] << 8;
        in += 3;
        while (n-- > 0) { unpacked[out] = unpacked[out - distance]; out++; }
    }
    return out;
}

u64 bench(void) {
    u64 seed = 2024, sum = 0;
    for (u64 turn = REPS(220); turn > 0; turn--) {
        write_text(&seed);
        u32 size = compress();
        u64 check = 0;
        if (expand(size) != SIZE) return 0xBAD;
        for (u32 i = 0; i < SIZE; i++) if (text[i] != unpacked[i]) return 0xBAD;
        for (u32 i = 0; i < size; i++) check = check * 31 + packed[i];
        sum = mix(mix(sum, size), check);
    }
    return sum;
}
