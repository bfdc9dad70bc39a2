/* Hashing: SHA-256, a table-driven CRC-32, FNV-1a, and a table with open addressing that inserts, finds and deletes. */
#include "bench.h"

const char bench_name[] = "hash";

static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

enum { BYTES = 32768, SLOTS = 16384 };
static u8 data[BYTES];
static u32 crc_table[256];
static u64 keys[SLOTS], values[SLOTS];

static u32 turn_right(u32 x, int n) { return x >> n | x << (32 - n); }

static void sha_block(u32 h[8], const u8 *p) {
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++) w[i] = (u32)p[4 * i] << 24 | (u32)p[4 * i + 1] << 16 | (u32)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn_right(a, 7) ^ turn_right(a, 18) ^ a >> 3) + w[i - 7]
             + (turn_right(b, 17) ^ turn_right(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++) s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        u32 e = s[4], a = s[0];
        u32 t1 = s[7] + (turn_right(e, 6) ^ turn_right(e, 11) ^ turn_right(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + K[i] + w[i];
        u32 t2 = (turn_right(a, 2) ^ turn_right(a, 13) ^ turn_right(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6]; s[6] = s[5]; s[5] = e; s[4] = s[3] + t1;
        s[3] = s[2]; s[2] = s[1]; s[1] = a; s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

static u64 sha(void) {
    u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (u32 at = 0; at < BYTES; at += 64) sha_block(h, data + at);
    return (u64)(h[0] ^ h[2] ^ h[4]) << 32 | (h[1] ^ h[3] ^ h[7]);
}

static u64 crc32(void) {
    u32 crc = 0xFFFFFFFF;
    for (u32 i = 0; i < BYTES; i++) crc = crc_table[(crc ^ data[i]) & 0xFF] ^ crc >> 8;
    return ~crc;
}

static u64 fnv(void) {
    u64 h = 0xCBF29CE484222325ULL;
    for (u32 i = 0; i < BYTES; i++) h = (h ^ data[i]) * 0x100000001B3ULL;
    return h;
}

static u64 slot_of(u64 key) {
    key ^= key >> 33;
    key *= 0xFF51AFD7ED558CCDULL;
    return (key ^ key >> 33) & (SLOTS - 1);
}

static u64 find(u64 key) {
    u64 at = slot_of(key);
    while (keys[at] && keys[at] != key) at = (at + 1) & (SLOTS - 1);
    return at;
}

static void drop(u64 at) {
    keys[at] = 0;
    for (u64 next = (at + 1) & (SLOTS - 1); keys[next]; next = (next + 1) & (SLOTS - 1)) {
        u64 home = slot_of(keys[next]);
        if (((next - home) & (SLOTS - 1)) < ((next - at) & (SLOTS - 1))) continue;
        keys[at] = keys[next];
        values[at] = values[next];
        keys[next] = 0;
        at = next;
    }
}

static u64 table(u64 *seed) {
    u64 sum = 0, first = *seed, s;
    for (int i = 0; i < SLOTS; i++) keys[i] = 0;
    for (int i = 0; i < SLOTS * 3 / 4; i++) {
        u64 key = next_random(seed) | 1, at = find(key);
        keys[at] = key;
        values[at] = (u64)i;
    }
    s = first;
    for (int i = 0; i < SLOTS * 3 / 4; i++) {
        u64 at = find(next_random(&s) | 1);
        sum += values[at];
        if (i % 3 == 0 && keys[at]) drop(at);
    }
    s = first;
    for (int i = 0; i < SLOTS * 3 / 4; i++) sum = sum * 3 + (keys[find(next_random(&s) | 1)] != 0);
    return sum;
}

u64 bench(void) {
    u64 seed = 7, sum = 0;
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320 ^ c >> 1 : c >> 1;
        crc_table[i] = c;
    }
    for (u64 turn = REPS(240); turn > 0; turn--) {
        for (u32 i = 0; i < BYTES; i++) data[i] = (u8)(next_random(&seed) >> 56);
        sum = mix(sum, sha());
        sum = mix(sum, crc32());
        sum = mix(sum, fnv());
        sum = mix(sum, table(&seed));
    }
    return sum;
}
