/* An interpreter inside the emulator: a stack machine with `switch` dispatch, hard to predict branches, running
 * recursive Fibonacci, a prime search and an array shuffle in its own bytecode. */
#include "bench.h"

const char bench_name[] = "bytevm";

enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, MOD, LESS, EQUAL, NOT, JUMP, IF_ZERO, CALL, RETURN, GET, SET, DUP, POP, HALT };

static i32 code[512];
static u32 length;
static i64 cells[1024];

static u32 emit(enum op op, i32 operand) {
    code[length++] = (i32)op;
    code[length++] = operand;
    return length - 1;
}

static void patch(u32 at) { code[at] = (i32)length; }

/* Locals live on the stack above the frame pointer; a call passes one argument, which is local 0. */
static i64 interpret(u32 pc) {
    i64 stack[512], *sp = stack, *fp = stack;
    u32 returns[128], depth = 0;
    i64 *frames[128];
    for (;;) {
        i32 op = code[pc], n = code[pc + 1];
        pc += 2;
        switch (op) {
        case PUSH: *sp++ = n; break;
        case LOAD: *sp++ = fp[n]; break;
        case STORE: fp[n] = *--sp; break;
        case ADD: sp--; sp[-1] += sp[0]; break;
        case SUB: sp--; sp[-1] -= sp[0]; break;
        case MUL: sp--; sp[-1] = (i64)((u64)sp[-1] * (u64)sp[0]); break;
        case MOD: sp--; sp[-1] %= sp[0]; break;
        case LESS: sp--; sp[-1] = sp[-1] < sp[0]; break;
        case EQUAL: sp--; sp[-1] = sp[-1] == sp[0]; break;
        case NOT: sp[-1] = !sp[-1]; break;
        case JUMP: pc = (u32)n; break;
        case IF_ZERO: if (!*--sp) pc = (u32)n; break;
        case CALL: returns[depth] = pc; frames[depth++] = fp; fp = sp - 1; sp += 3; pc = (u32)n; break;
        case RETURN: { i64 result = sp[-1]; sp = fp; fp = frames[--depth]; pc = returns[depth]; *sp++ = result; break; }
        case GET: sp[-1] = cells[sp[-1] & 1023]; break;
        case SET: sp -= 2; cells[sp[0] & 1023] = sp[1]; break;
        case DUP: sp[0] = sp[-1]; sp++; break;
        case POP: sp--; break;
        default: return sp[-1];
        }
    }
}

static u32 fibonacci(void) {
    u32 entry = length, recurse;
    emit(LOAD, 0); emit(PUSH, 2); emit(LESS, 0); recurse = emit(IF_ZERO, 0);
    emit(LOAD, 0); emit(RETURN, 0);
    patch(recurse);
    emit(LOAD, 0); emit(PUSH, 1); emit(SUB, 0); emit(CALL, (i32)entry);
    emit(LOAD, 0); emit(PUSH, 2); emit(SUB, 0); emit(CALL, (i32)entry);
    emit(ADD, 0); emit(RETURN, 0);
    return entry;
}

/* primes(limit): local 1 is the candidate, 2 the divisor, 3 the count. */
static u32 primes(void) {
    u32 entry = length, outer, inner, done, prime, composite;
    emit(PUSH, 2); emit(STORE, 1); emit(PUSH, 0); emit(STORE, 3);
    outer = length;
    emit(LOAD, 1); emit(LOAD, 0); emit(LESS, 0); done = emit(IF_ZERO, 0);
    emit(PUSH, 2); emit(STORE, 2);
    inner = length;
    emit(LOAD, 1); emit(LOAD, 2); emit(DUP, 0); emit(MUL, 0); emit(LESS, 0); emit(NOT, 0); prime = emit(IF_ZERO, 0);
    emit(LOAD, 1); emit(LOAD, 2); emit(MOD, 0); composite = emit(IF_ZERO, 0);
    emit(LOAD, 2); emit(PUSH, 1); emit(ADD, 0); emit(STORE, 2); emit(JUMP, (i32)inner);
    patch(prime);
    emit(LOAD, 3); emit(PUSH, 1); emit(ADD, 0); emit(STORE, 3);
    patch(composite);
    emit(LOAD, 1); emit(PUSH, 1); emit(ADD, 0); emit(STORE, 1); emit(JUMP, (i32)outer);
    patch(done);
    emit(LOAD, 3); emit(RETURN, 0);
    return entry;
}

/* shuffle(count): cells[i] mixes with a cell chosen by its own value; local 1 is i. */
static u32 shuffle(void) {
    u32 entry = length, top, done, even;
    emit(PUSH, 0); emit(STORE, 1);
    top = length;
    emit(LOAD, 1); emit(LOAD, 0); emit(LESS, 0); done = emit(IF_ZERO, 0);
    emit(LOAD, 1); emit(GET, 0); emit(STORE, 2);
    emit(LOAD, 2); emit(PUSH, 2); emit(MOD, 0); even = emit(IF_ZERO, 0);
    emit(LOAD, 2); emit(LOAD, 2); emit(LOAD, 1); emit(ADD, 0); emit(SET, 0);
    patch(even);
    emit(LOAD, 1); emit(LOAD, 2); emit(PUSH, 1103515245); emit(MUL, 0); emit(PUSH, 12345); emit(ADD, 0); emit(SET, 0);
    emit(LOAD, 1); emit(PUSH, 1); emit(ADD, 0); emit(STORE, 1); emit(JUMP, (i32)top);
    patch(done);
    emit(LOAD, 1); emit(GET, 0); emit(RETURN, 0);
    return entry;
}

static i64 run(u32 function, i32 argument) {
    u32 entry = length;
    emit(PUSH, argument); emit(CALL, (i32)function); emit(HALT, 0);
    i64 result = interpret(entry);
    length = entry;
    return result;
}

u64 bench(void) {
    u64 sum = 0, seed = 99;
    u32 f = fibonacci(), p = primes(), s = shuffle();
    for (int i = 0; i < 1024; i++) cells[i] = (i64)(next_random(&seed) >> 32);
    for (u64 turn = REPS(84); turn > 0; turn--) {
        sum = mix(sum, (u64)run(f, 17));
        sum = mix(sum, (u64)run(p, 1600 + (i32)(turn & 7)));
        sum = mix(sum, (u64)run(s, 20000));
    }
    for (int i = 0; i < 1024; i++) sum = mix(sum, (u64)cells[i]);
    return sum;
}
