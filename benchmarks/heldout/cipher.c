/* Held out: ChaCha20 and Poly1305-like arithmetic with 64 x 64 bit products, and base64 both ways. */
#include "bench.h"

const char bench_name[] = "cipher";

enum { SIZE = 12288 };
static u8 plain[SIZE], sealed[SIZE], letters[SIZE / 3 * 4], back[SIZE];

static u32 turn_left(u32 x, int n) { return x << n | x >> (32 - n); }

static void quarter(u32 *s, int a, int b, int c, int d) {
    s[a] += s[b]; s[d] = turn_left(s[d] ^ s[a], 16);
    s[c] += s[d]; s[b] = turn_left(s[b] ^ s[c], 12);
    s[a] += s[b]; s[d] = turn_left(s[d] ^ s[a], 8);
    s[c] += s[d]; s[b] = turn_left(s[b] ^ s[c], 7);
}

static void chacha(const u32 key[8], u32 nonce, const u8 *in, u8 *out, u32 n) {
    u32 state[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 8; i++) state[4 + i] = key[i];
    state[13] = nonce;
    for (u32 at = 0; at < n; at += 64, state[12]++) {
        u32 s[16];
        for (int i = 0; i < 16; i++) s[i] = state[i];
        for (int round = 0; round < 10; round++) {
            quarter(s, 0, 4, 8, 12); quarter(s, 1, 5, 9, 13); quarter(s, 2, 6, 10, 14); quarter(s, 3, 7, 11, 15);
            quarter(s, 0, 5, 10, 15); quarter(s, 1, 6, 11, 12); quarter(s, 2, 7, 8, 13); quarter(s, 3, 4, 9, 14);
        }
        for (u32 i = 0; i < 64; i++) out[at + i] = (u8)(in[at + i] ^ ((s[i / 4] + state[i / 4]) >> i % 4 * 8));
    }
}

/* A polynomial over the integers modulo 2^61 - 1. */
static u64 tag(const u8 *p, u32 n, u64 r) {
    const u64 modulus = (1ULL << 61) - 1;
    u64 sum = 0;
    for (u32 i = 0; i + 4 <= n; i += 4) {
        u64 word = (u64)p[i] | (u64)p[i + 1] << 8 | (u64)p[i + 2] << 16 | (u64)p[i + 3] << 24;
        unsigned __int128 product = (unsigned __int128)(sum + word + 1) * r;
        sum = (u64)(product & modulus) + (u64)(product >> 61);
        if (sum >= modulus) sum -= modulus;
    }
    return sum;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void encode(void) {
    for (u32 i = 0, o = 0; i < SIZE; i += 3) {
        u32 v = (u32)sealed[i] << 16 | (u32)sealed[i + 1] << 8 | sealed[i + 2];
        for (int k = 18; k >= 0; k -= 6) letters[o++] = (u8)alphabet[v >> k & 63];
    }
}

static u32 value_of(u8 c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26u;
    if (c >= '0' && c <= '9') return c - '0' + 52u;
    return c == '+' ? 62 : 63;
}

static void decode(void) {
    for (u32 i = 0, o = 0; i < sizeof letters; i += 4) {
        u32 v = 0;
        for (u32 k = 0; k < 4; k++) v = v << 6 | value_of(letters[i + k]);
        back[o++] = (u8)(v >> 16);
        back[o++] = (u8)(v >> 8);
        back[o++] = (u8)v;
    }
}

u64 bench(void) {
    u64 seed = 19, sum = 0;
    u32 key[8];
    for (u64 turn = REPS(600); turn > 0; turn--) {
        for (int i = 0; i < 8; i++) key[i] = (u32)next_random(&seed);
        for (u32 i = 0; i < SIZE; i++) plain[i] = (u8)(i * turn >> 3);
        chacha(key, (u32)turn, plain, sealed, SIZE);
        sum = mix(sum, tag(sealed, SIZE, (u64)key[0] << 28 | key[1]));
        encode();
        decode();
        chacha(key, (u32)turn, back, sealed, SIZE);
        for (u32 i = 0; i < SIZE; i++) if (plain[i] != sealed[i]) return 0xBAD;
        sum = mix(sum, letters[turn % sizeof letters]);
    }
    return sum;
}
