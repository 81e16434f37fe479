/* The lossy codecs, compiled: four to five times as fast as numpy (adr/0011).
 *
 *     python tests/benchmarks/bench_kernels.py
 *
 * Every function works on whole buffers without the interpreter lock and gives the same bytes as
 * the numpy code of codecs.py, which explains them and takes their place where this file was not
 * compiled. So operations must stay as they are written: never -ffast-math. Buffers are fp32 or
 * bytes, contiguous, little-endian. Their sizes are checked here, since a wrong one would write past
 * the end; what the bytes mean is checked by the callers.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
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

FAST static void from_bf16(const uint16_t *halves, Py_ssize_t count, float *out) {
    uint32_t *bits = (uint32_t *)out;
    for (Py_ssize_t i = 0; i < count; i++) bits[i] = (uint32_t)halves[i] << 16;
}

/* ---- codecs --------------------------------------------------------------------------------- */

static Py_ssize_t blocks_of(Py_ssize_t count, Py_ssize_t block) { return (count + block - 1) / block; }

static Py_ssize_t least(Py_ssize_t a, Py_ssize_t b) { return a < b ? a : b; }

#define INT8_BLOCK 1024
#define INT4_BLOCK 64

static void encode_int8(const float *values, Py_ssize_t count, uint8_t *out) {
    uint8_t *levels = out + 4 * blocks_of(count, INT8_BLOCK);
    for (Py_ssize_t begin = 0; begin < count; begin += INT8_BLOCK, out += 4) {
        Py_ssize_t size = least(INT8_BLOCK, count - begin);
        float scale = scale_of(largest_bits(values + begin, size), 127.0f);
        memcpy(out, &scale, 4);
        round_block(values + begin, size, scale, 127.0f, 0, levels + begin);
    }
}

static void decode_int8(const uint8_t *data, Py_ssize_t count, float *out) {
    const int8_t *levels = (const int8_t *)data + 4 * blocks_of(count, INT8_BLOCK);
    for (Py_ssize_t begin = 0; begin < count; begin += INT8_BLOCK, data += 4) {
        float scale;
        memcpy(&scale, data, 4);
        scale_block(levels + begin, least(INT8_BLOCK, count - begin), scale, out + begin);
    }
}

static void encode_int4(const float *values, Py_ssize_t count, uint8_t *out) {
    Py_ssize_t half = (count + 1) / 2;
    uint8_t *packed = out + 4 * blocks_of(count, INT4_BLOCK), levels[INT4_BLOCK];
    for (Py_ssize_t begin = 0; begin < count; begin += INT4_BLOCK, out += 4) {
        Py_ssize_t size = least(INT4_BLOCK, count - begin);
        Py_ssize_t low = begin >= half ? 0 : least(size, half - begin);
        float scale = scale_of(largest_bits(values + begin, size), 7.0f);
        memcpy(out, &scale, 4);
        round_block(values + begin, size, scale, 7.0f, 8, levels);
        memcpy(packed + begin, levels, (size_t)low);
        pack_high(levels + low, size - low, packed + begin + low - half);
    }
}

static void decode_int4(const uint8_t *data, Py_ssize_t count, float *out) {
    Py_ssize_t half = (count + 1) / 2;
    const uint8_t *packed = data + 4 * blocks_of(count, INT4_BLOCK);
    for (Py_ssize_t begin = 0; begin < count; begin += INT4_BLOCK, data += 4) {
        Py_ssize_t size = least(INT4_BLOCK, count - begin);
        Py_ssize_t low = begin >= half ? 0 : least(size, half - begin);
        float scale;
        memcpy(&scale, data, 4);
        unpack_block(packed + begin, low, 0, scale, out + begin);
        unpack_block(packed + begin + low - half, size - low, 4, scale, out + begin + low);
    }
}

/* ---- Python --------------------------------------------------------------------------------- */

static Py_ssize_t int8_bytes(Py_ssize_t count) { return count + 4 * blocks_of(count, INT8_BLOCK); }

static Py_ssize_t int4_bytes(Py_ssize_t count) {
    return (count + 1) / 2 + 4 * blocks_of(count, INT4_BLOCK);
}

static Py_ssize_t bf16_bytes(Py_ssize_t count) { return 2 * count; }

static void encode_bf16(const float *values, Py_ssize_t count, uint8_t *out) {
    to_bf16(values, count, (uint16_t *)out);
}

static void decode_bf16(const uint8_t *data, Py_ssize_t count, float *out) {
    from_bf16((const uint16_t *)data, count, out);
}

static int is_fp32(const Py_buffer *buffer) {
    return buffer->len % 4 == 0 && (uintptr_t)buffer->buf % 4 == 0;
}

static PyObject *done(Py_buffer *first, Py_buffer *second, int fits) {
    PyBuffer_Release(first);
    PyBuffer_Release(second);
    if (fits) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    return NULL;
}

typedef Py_ssize_t (*Size)(Py_ssize_t);
typedef void (*Encode)(const float *, Py_ssize_t, uint8_t *);
typedef void (*Decode)(const uint8_t *, Py_ssize_t, float *);

static PyObject *encode(PyObject *args, Size size, Encode work) {
    Py_buffer values, out;
    if (!PyArg_ParseTuple(args, "y*w*", &values, &out)) return NULL;
    Py_ssize_t count = values.len / 4;
    int fits = is_fp32(&values) && out.len == size(count) && (uintptr_t)out.buf % 2 == 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        work(values.buf, count, out.buf);
        Py_END_ALLOW_THREADS
    }
    return done(&values, &out, fits);
}

static PyObject *decode(PyObject *args, Size size, Decode work) {
    Py_buffer data, out;
    if (!PyArg_ParseTuple(args, "y*w*", &data, &out)) return NULL;
    Py_ssize_t count = out.len / 4;
    int fits = is_fp32(&out) && data.len == size(count) && (uintptr_t)data.buf % 2 == 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        work(data.buf, count, out.buf);
        Py_END_ALLOW_THREADS
    }
    return done(&data, &out, fits);
}

#define CODEC(name)                                                              \
    static PyObject *py_encode_##name(PyObject *self, PyObject *args) {          \
        (void)self;                                                              \
        return encode(args, name##_bytes, encode_##name);                        \
    }                                                                            \
    static PyObject *py_decode_##name(PyObject *self, PyObject *args) {          \
        (void)self;                                                              \
        return decode(args, name##_bytes, decode_##name);                        \
    }
CODEC(int8)
CODEC(int4)
CODEC(bf16)

static PyMethodDef METHODS[] = {
    {"encode_int8", py_encode_int8, METH_VARARGS, "encode_int8(values, out)"},
    {"decode_int8", py_decode_int8, METH_VARARGS, "decode_int8(data, out)"},
    {"encode_int4", py_encode_int4, METH_VARARGS, "encode_int4(values, out)"},
    {"decode_int4", py_decode_int4, METH_VARARGS, "decode_int4(data, out)"},
    {"encode_bf16", py_encode_bf16, METH_VARARGS, "encode_bf16(values, out)"},
    {"decode_bf16", py_decode_bf16, METH_VARARGS, "decode_bf16(data, out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&MODULE); }
