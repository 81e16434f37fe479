/* Loops over fp32 values, and the lossy codecs on top of them; codecs.py explains these.
 *
 * Operations must stay as they are written: never -ffast-math. A codec works on any run of values
 * that begins at a multiple of `TILE`: what it makes of a chunk is what it makes of its runs, one
 * after the other.
 */
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FAST __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define FAST
#endif

#define MAGNITUDE 0x7FFFFFFF /* all bits but the sign */
#define INFINITE 0x7F800000
#define QUIET_NAN 0x7FC00000
#define MAX_SCALE 0x7BFFFF00 /* see codecs.py */
#define TINY 0x00800000      /* the smallest normal number */
#define BF16_MAX 0x7F7F0000
#define TO_INTEGER 12582912.0f /* 1.5 * 2^23: adding it leaves a rounded integer in the low bits */

static inline float as_float(int32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline int32_t as_bits(float value) {
    int32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* ---- loops ---------------------------------------------------------------------------------- */

/* The largest magnitude as bits: integers order them, NaN above infinity, and vectorize. */
FAST static int32_t largest_bits(const float *values, Py_ssize_t count) {
    const int32_t *bits = (const int32_t *)values;
    int32_t largest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t magnitude = bits[i] & MAGNITUDE;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

/* A block's scale: 16 significant bits, so that scale times level is exact. */
static float scale_of(int32_t largest, float levels) {
    if (largest >= INFINITE) return as_float(QUIET_NAN);
    int32_t bits = (int32_t)(((uint32_t)as_bits(as_float(largest) / levels) + 0xFFu) & 0xFFFFFF00u);
    if (bits > MAX_SCALE) bits = MAX_SCALE;
    return as_float(bits < TINY ? 0 : bits);
}

/* Levels of one block, `offset` added; at most `limit` each way. */
FAST static void round_block(const float *values, Py_ssize_t count, float scale, float limit,
                             int32_t offset, uint8_t *out) {
    float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (Py_ssize_t i = 0; i < count; i++) {
        float level = values[i] * inverse;
        level = level > limit ? limit : level;
        level = level < -limit ? -limit : level;
        out[i] = (uint8_t)(as_bits(level + TO_INTEGER) + offset);
    }
}

FAST static void scale_block(const int8_t *levels, Py_ssize_t count, float scale, float *out) {
    for (Py_ssize_t i = 0; i < count; i++) out[i] = (float)levels[i] * scale;
}

/* What `scale_block` makes of the levels of `round_block`; the sum is rounded to an integer. */
FAST static void settle_block(const float *values, Py_ssize_t count, float scale, float limit,
                              float *out) {
    float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (Py_ssize_t i = 0; i < count; i++) {
        float level = values[i] * inverse;
        level = level > limit ? limit : level;
        level = level < -limit ? -limit : level;
        level = (level + TO_INTEGER) - TO_INTEGER;
        out[i] = level * scale;
    }
}

/* `scale_block`, then `weigh_and_add`. */
FAST static void add_block(const int8_t *levels, Py_ssize_t count, float scale, float weight,
                           float *total) {
    for (Py_ssize_t i = 0; i < count; i++) {
        float value = (float)levels[i] * scale;
        float term = value * weight;
        total[i] = total[i] + term;
    }
}

FAST static void pack_high(const uint8_t *levels, Py_ssize_t count, uint8_t *out) {
    for (Py_ssize_t i = 0; i < count; i++) out[i] |= (uint8_t)(levels[i] << 4);
}

FAST static void unpack_block(const uint8_t *packed, Py_ssize_t count, int shift, float scale,
                              float *out) {
    for (Py_ssize_t i = 0; i < count; i++)
        out[i] = (float)((int32_t)((packed[i] >> shift) & 15) - 8) * scale;
}

FAST static void to_bf16(const float *values, Py_ssize_t count, uint16_t *out) {
    const int32_t *all = (const int32_t *)values;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t magnitude = all[i] & MAGNITUDE, finite = magnitude < INFINITE;
        magnitude = magnitude > BF16_MAX ? BF16_MAX : magnitude;
        uint32_t bits = (uint32_t)(magnitude | (all[i] & ~MAGNITUDE));
        bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
        out[i] = (uint16_t)(finite ? bits : QUIET_NAN >> 16);
    }
}

/* The first contribution of a weighted sum, and the further ones. */
FAST static void weigh(const float *values, Py_ssize_t count, float weight, float *total) {
    for (Py_ssize_t i = 0; i < count; i++) total[i] = values[i] * weight;
}

FAST static void weigh_and_add(const float *values, Py_ssize_t count, float weight, float *total) {
    for (Py_ssize_t i = 0; i < count; i++) {
        float term = values[i] * weight;
        total[i] = total[i] + term;
    }
}

/* Whether the scale at the beginning of each block is possible; see codecs.py. */
static int scales_fit(const uint8_t *data, Py_ssize_t blocks, Py_ssize_t block_bytes) {
    float largest = as_float(MAX_SCALE);
    int wrong = 0;
    for (Py_ssize_t i = 0; i < blocks; i++) {
        float scale;
        memcpy(&scale, data + i * block_bytes, 4);
        wrong |= !(scale >= 0.0f && scale <= largest);
    }
    return !wrong;
}

FAST static void from_bf16(const uint16_t *halves, Py_ssize_t count, float *out) {
    uint32_t *bits = (uint32_t *)out;
    for (Py_ssize_t i = 0; i < count; i++) bits[i] = (uint32_t)halves[i] << 16;
}

/* ---- codecs --------------------------------------------------------------------------------- */

#define LAYOUT 2 /* of encoded bytes, as in codecs.py */
#define TILE 1024 /* values; a multiple of every block, and one of int8 */
#define INT8_BLOCK 1024
#define INT4_BLOCK 64
#define INT8_BLOCK_BYTES (4 + INT8_BLOCK)
#define INT4_BLOCK_BYTES (4 + INT4_BLOCK / 2)

typedef struct {
    Py_ssize_t (*bytes)(Py_ssize_t count);
    int (*fits)(const uint8_t *data, Py_ssize_t count); /* false: not to be decoded */
    void (*encode)(const float *values, Py_ssize_t count, uint8_t *data);
    void (*decode)(const uint8_t *data, Py_ssize_t count, float *values);
    /* Of a tile at most: what is decoded of what is encoded; a decoded contribution to a sum. */
    void (*settle)(const float *values, Py_ssize_t count, float *out);
    void (*add)(const uint8_t *data, Py_ssize_t count, float weight, float *total);
} Codec;

static Py_ssize_t blocks_of(Py_ssize_t count, Py_ssize_t block) { return (count + block - 1) / block; }

static Py_ssize_t least(Py_ssize_t a, Py_ssize_t b) { return a < b ? a : b; }

static Py_ssize_t int8_bytes(Py_ssize_t count) { return count + 4 * blocks_of(count, INT8_BLOCK); }

static int int8_fits(const uint8_t *data, Py_ssize_t count) {
    return scales_fit(data, blocks_of(count, INT8_BLOCK), INT8_BLOCK_BYTES);
}

static void encode_int8(const float *values, Py_ssize_t count, uint8_t *data) {
    for (; count > 0; count -= INT8_BLOCK, values += INT8_BLOCK, data += INT8_BLOCK_BYTES) {
        Py_ssize_t size = least(INT8_BLOCK, count);
        float scale = scale_of(largest_bits(values, size), 127.0f);
        memcpy(data, &scale, 4);
        round_block(values, size, scale, 127.0f, 0, data + 4);
    }
}

static void decode_int8(const uint8_t *data, Py_ssize_t count, float *values) {
    for (; count > 0; count -= INT8_BLOCK, values += INT8_BLOCK, data += INT8_BLOCK_BYTES) {
        float scale;
        memcpy(&scale, data, 4);
        scale_block((const int8_t *)data + 4, least(INT8_BLOCK, count), scale, values);
    }
}

static void settle_int8(const float *values, Py_ssize_t count, float *out) {
    settle_block(values, count, scale_of(largest_bits(values, count), 127.0f), 127.0f, out);
}

static void add_int8(const uint8_t *data, Py_ssize_t count, float weight, float *total) {
    float scale;
    memcpy(&scale, data, 4);
    add_block((const int8_t *)data + 4, count, scale, weight, total);
}

static Py_ssize_t int4_bytes(Py_ssize_t count) {
    return (count + 1) / 2 + 4 * blocks_of(count, INT4_BLOCK);
}

static int int4_fits(const uint8_t *data, Py_ssize_t count) {
    return scales_fit(data, blocks_of(count, INT4_BLOCK), INT4_BLOCK_BYTES);
}

static void encode_int4(const float *values, Py_ssize_t count, uint8_t *data) {
    uint8_t levels[INT4_BLOCK];
    for (; count > 0; count -= INT4_BLOCK, values += INT4_BLOCK, data += INT4_BLOCK_BYTES) {
        Py_ssize_t size = least(INT4_BLOCK, count), low = (size + 1) / 2;
        float scale = scale_of(largest_bits(values, size), 7.0f);
        memcpy(data, &scale, 4);
        round_block(values, size, scale, 7.0f, 8, levels);
        memcpy(data + 4, levels, (size_t)low);
        pack_high(levels + low, size - low, data + 4);
    }
}

static void decode_int4(const uint8_t *data, Py_ssize_t count, float *values) {
    for (; count > 0; count -= INT4_BLOCK, values += INT4_BLOCK, data += INT4_BLOCK_BYTES) {
        Py_ssize_t size = least(INT4_BLOCK, count), low = (size + 1) / 2;
        float scale;
        memcpy(&scale, data, 4);
        unpack_block(data + 4, low, 0, scale, values);
        unpack_block(data + 4, size - low, 4, scale, values + low);
    }
}

static void settle_int4(const float *values, Py_ssize_t count, float *out) {
    for (; count > 0; count -= INT4_BLOCK, values += INT4_BLOCK, out += INT4_BLOCK) {
        Py_ssize_t size = least(INT4_BLOCK, count);
        settle_block(values, size, scale_of(largest_bits(values, size), 7.0f), 7.0f, out);
    }
}

static void add_int4(const uint8_t *data, Py_ssize_t count, float weight, float *total) {
    float values[TILE];
    decode_int4(data, count, values);
    weigh_and_add(values, count, weight, total);
}

static Py_ssize_t bf16_bytes(Py_ssize_t count) { return 2 * count; }

static int bf16_fits(const uint8_t *data, Py_ssize_t count) {
    (void)data, (void)count;
    return 1;
}

static void encode_bf16(const float *values, Py_ssize_t count, uint8_t *data) {
    to_bf16(values, count, (uint16_t *)data);
}

static void decode_bf16(const uint8_t *data, Py_ssize_t count, float *values) {
    from_bf16((const uint16_t *)data, count, values);
}

static void settle_bf16(const float *values, Py_ssize_t count, float *out) {
    uint16_t halves[TILE];
    to_bf16(values, count, halves);
    from_bf16(halves, count, out);
}

static void add_bf16(const uint8_t *data, Py_ssize_t count, float weight, float *total) {
    float values[TILE];
    decode_bf16(data, count, values);
    weigh_and_add(values, count, weight, total);
}

static const Codec INT8 = {int8_bytes, int8_fits, encode_int8, decode_int8, settle_int8, add_int8};
static const Codec INT4 = {int4_bytes, int4_fits, encode_int4, decode_int4, settle_int4, add_int4};
static const Codec BF16 = {bf16_bytes, bf16_fits, encode_bf16, decode_bf16, settle_bf16, add_bf16};
