/* What a round computes on every value, compiled (adr/0011): the lossy codecs, weighted sums.
 *
 *     python tests/benchmarks/bench_kernels.py
 *
 * Every function works on whole buffers without the interpreter lock and gives the same bytes as
 * the numpy code of codecs.py and kernels.py, which takes their place where this file was not
 * compiled. Buffers are fp32 or bytes, contiguous, little-endian. Their sizes are checked here,
 * since a wrong one would write past the end. What comes from others may be anything: a function
 * returns False, and has not decoded it, when its scales are impossible.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_codecs.h"

static int aligned(const Py_buffer *buffer, uintptr_t size) {
    return (uintptr_t)buffer->buf % size == 0 && (uintptr_t)buffer->len % size == 0;
}

static PyObject *misfit(void) {
    PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    return NULL;
}

/* ---- one chunk ------------------------------------------------------------------------------ */

static PyObject *encode(PyObject *args, const Codec *codec) {
    Py_buffer values, data;
    if (!PyArg_ParseTuple(args, "y*w*", &values, &data)) return NULL;
    Py_ssize_t count = values.len / 4;
    int fit = aligned(&values, 4) && data.len == codec->bytes(count) &&
              (uintptr_t)data.buf % 2 == 0;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
        codec->encode(values.buf, count, data.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&data);
    if (!fit) return misfit();
    Py_RETURN_NONE;
}

static PyObject *decode(PyObject *args, const Codec *codec) {
    Py_buffer data, values;
    if (!PyArg_ParseTuple(args, "y*w*", &data, &values)) return NULL;
    Py_ssize_t count = values.len / 4;
    int possible = 0, fit = aligned(&values, 4) && data.len == codec->bytes(count) &&
                            (uintptr_t)data.buf % 2 == 0;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
        possible = codec->fits(data.buf, count);
        if (possible) codec->decode(data.buf, count, values.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&values);
    return fit ? PyBool_FromLong(possible) : misfit();
}

static PyObject *all_finite(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer values;
    if (!PyArg_ParseTuple(args, "y*", &values)) return NULL;
    int finite = 0, fit = aligned(&values, 4);
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
        finite = largest_bits(values.buf, values.len / 4) < INFINITE;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&values);
    return fit ? PyBool_FromLong(finite) : misfit();
}

/* ---- weighted sums -------------------------------------------------------------------------- */

/* Contributions to a chunk; `own` is the number of the one that is still fp32, or none's. */
typedef struct {
    const Codec *codec; /* NULL: fp32, all of them */
    Py_buffer *all;
    Py_ssize_t number, own;
    const float *weights;
    float *total;
    Py_ssize_t count;
    uint8_t *mean; /* the encoded result */
} Sum;

/* Contribution `i`'s part in a tile of the sum; its own goes through the codec as everybody's. */
static void add_tile(const Sum *sum, Py_ssize_t i, Py_ssize_t begin, Py_ssize_t size, float *tile) {
    float room[TILE], weight = sum->weights[i];
    const float *values = (const float *)sum->all[i].buf + begin;
    if (sum->codec != NULL) {
        const uint8_t *data = (const uint8_t *)sum->all[i].buf + sum->codec->bytes(begin);
        if (i == sum->own) {
            sum->codec->settle(values, size, room);
        } else if (i == 0) {
            sum->codec->decode(data, size, room);
        } else {
            sum->codec->add(data, size, weight, tile);
            return;
        }
        values = room;
    }
    (i == 0 ? weigh : weigh_and_add)(values, size, weight, tile);
}

/* A tile at a time, which stays in the first cache from the decoding to the result. */
static int add_up(const Sum *sum) {
    float added[TILE];
    for (Py_ssize_t i = 0; sum->codec != NULL && i < sum->number; i++)
        if (i != sum->own && !sum->codec->fits(sum->all[i].buf, sum->count)) return 0;
    for (Py_ssize_t begin = 0; begin < sum->count; begin += TILE) {
        Py_ssize_t end = least(begin + TILE, sum->count), size = end - begin;
        float *tile = sum->codec == NULL ? sum->total + begin : added;
        for (Py_ssize_t i = 0; i < sum->number; i++) add_tile(sum, i, begin, size, tile);
        if (largest_bits(tile, size) >= INFINITE) return 0;
        if (sum->codec != NULL) {
            uint8_t *mean = sum->mean + sum->codec->bytes(begin);
            sum->codec->encode(tile, size, mean);
            sum->codec->decode(mean, size, sum->total + begin);
        }
    }
    return 1;
}

static int sum_fits(const Sum *sum, const Py_buffer *weights, const Py_buffer *total,
                    const Py_buffer *mean) {
    Py_ssize_t bytes = sum->codec == NULL ? 4 * sum->count : sum->codec->bytes(sum->count);
    int fit = sum->number > 0 && aligned(total, 4) && aligned(weights, 4) &&
              weights->len == 4 * sum->number && (uintptr_t)mean->buf % 2 == 0 &&
              mean->len == (sum->codec == NULL ? 0 : bytes);
    for (Py_ssize_t i = 0; i < sum->number; i++) {
        int plain = sum->codec == NULL || i == sum->own;
        fit &= sum->all[i].len == (plain ? total->len : bytes);
        fit &= (uintptr_t)sum->all[i].buf % (plain ? 4 : 2) == 0;
    }
    return fit;
}

static PyObject *weighted_sum(PyObject *args, const Codec *codec) {
    PyObject *contributions;
    Py_buffer weights, total, mean;
    Py_ssize_t own, taken = 0;
    if (!PyArg_ParseTuple(args, "O!ny*w*w*", &PyTuple_Type, &contributions, &own, &weights, &total,
                          &mean))
        return NULL;
    Py_ssize_t number = PyTuple_GET_SIZE(contributions);
    int finite = 0, fit = 0;
    Py_buffer *all = PyMem_Calloc((size_t)number + 1, sizeof(Py_buffer));
    if (all == NULL) PyErr_NoMemory();
    while (all != NULL && taken < number &&
           PyObject_GetBuffer(PyTuple_GET_ITEM(contributions, taken), &all[taken], PyBUF_SIMPLE) == 0)
        taken++;
    if (all != NULL && taken == number) {
        Sum sum = {codec, all, number, own, weights.buf, total.buf, total.len / 4, mean.buf};
        fit = sum_fits(&sum, &weights, &total, &mean);
        if (fit) {
            Py_BEGIN_ALLOW_THREADS
            finite = add_up(&sum);
            Py_END_ALLOW_THREADS
        } else {
            misfit();
        }
    }
    while (taken > 0) PyBuffer_Release(&all[--taken]);
    PyMem_Free(all);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&total);
    PyBuffer_Release(&mean);
    return fit ? PyBool_FromLong(finite) : NULL;
}

/* ---- Python --------------------------------------------------------------------------------- */

#define FUNCTION(name, work, codec)                          \
    static PyObject *name(PyObject *self, PyObject *args) {  \
        (void)self;                                          \
        return work(args, codec);                            \
    }
FUNCTION(py_encode_int8, encode, &INT8)
FUNCTION(py_encode_int4, encode, &INT4)
FUNCTION(py_encode_bf16, encode, &BF16)
FUNCTION(py_decode_int8, decode, &INT8)
FUNCTION(py_decode_int4, decode, &INT4)
FUNCTION(py_decode_bf16, decode, &BF16)
FUNCTION(py_sum_int8, weighted_sum, &INT8)
FUNCTION(py_sum_int4, weighted_sum, &INT4)
FUNCTION(py_sum_bf16, weighted_sum, &BF16)
FUNCTION(py_sum_fp32, weighted_sum, NULL)

static PyMethodDef METHODS[] = {
    {"encode_int8", py_encode_int8, METH_VARARGS, "encode_int8(values, data)"},
    {"encode_int4", py_encode_int4, METH_VARARGS, "encode_int4(values, data)"},
    {"encode_bf16", py_encode_bf16, METH_VARARGS, "encode_bf16(values, data)"},
    {"decode_int8", py_decode_int8, METH_VARARGS, "decode_int8(data, values) -> possible"},
    {"decode_int4", py_decode_int4, METH_VARARGS, "decode_int4(data, values) -> possible"},
    {"decode_bf16", py_decode_bf16, METH_VARARGS, "decode_bf16(data, values) -> possible"},
    {"sum_int8", py_sum_int8, METH_VARARGS, "sum_int8(all, own, weights, total, mean) -> finite"},
    {"sum_int4", py_sum_int4, METH_VARARGS, "sum_int4(all, own, weights, total, mean) -> finite"},
    {"sum_bf16", py_sum_bf16, METH_VARARGS, "sum_bf16(all, own, weights, total, mean) -> finite"},
    {"sum_fp32", py_sum_fp32, METH_VARARGS, "sum_fp32(all, own, weights, total, mean) -> finite"},
    {"all_finite", all_finite, METH_VARARGS, "all_finite(values) -> finite"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
    PyObject *module = PyModule_Create(&MODULE);
    if (module != NULL && PyModule_AddIntConstant(module, "LAYOUT", LAYOUT) < 0) Py_CLEAR(module);
    return module;
}
