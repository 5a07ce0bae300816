/* Trains and evaluates a block of members of one cohort, one member a vector lane.
 *
 * Every array is members-innermost: element i of lane l lies at [i][l]. No instruction mixes lanes, so a
 * member's result depends neither on its lane nor on what is in the others. A step goes through its batch
 * sample by sample, forward and backward, because the activations of one sample fit the second-level cache.
 *
 * The compilation defines, before this file (zoo_datasets/stacked/codegen.py writes them):
 *   LANES                 members in a block, which is the number of floats in a vector register
 *   CHANNELS, PIXELS      of an image
 *   CLASSES, PARAMETERS   of the network; parameters lie in the order of the weight layout
 *   STRIP                 vectors of the scratch area for gradients before pooling
 *   STAGES(S)             S(name, fields of Stage …) for each convolution or linear layer, with the pooling,
 *                         the activation and the dropout that follow it
 * Sizes are constants, so the compiler keeps the blocks of accumulators in registers.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#endif

typedef float v __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint64_t vw __attribute__((vector_size(8 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { TANH, RELU, SIGMOID, GELU };
enum { GRADIENTS_ONLY, ADAM, SGD };
enum { ACCUMULATORS = 32, DROPOUT = 2 };

typedef struct {
  int inputs, height, width;                       /* of the layer's input; 1 x 1 for a linear layer */
  int outputs, kernel, rows, columns;              /* rows and columns that reach the output of the stage */
  int pool;                                        /* 2: max-pooling by 2 follows; 1: none */
  int activate;                                    /* whether the activation follows */
  int dropout;                                     /* number of the dropout layer that follows, or -1 */
  int weight, bias;                                /* offsets in the parameters */
  int forward_outputs, forward_columns;            /* block of accumulators of the forward pass */
  int weight_outputs;                              /* … of the gradient of the weights */
  int input_inputs, input_columns;                 /* … of the gradient of the input */
  int strip_outputs, strip_rows;                   /* part of the gradient before pooling made at a time */
} Stage;

INLINE v splat(float x) { return (v){0} + x; }
INLINE vi choose_int(vi mask, vi yes, vi no) { return (mask & yes) | (~mask & no); }
INLINE v choose(vi mask, v yes, v no) { return (v)choose_int(mask, (vi)yes, (vi)no); }

/* ---- convolution; a linear layer is one with a 1 x 1 image -------------------------------------------- */

/* A pooled pixel takes its first maximum in row-major order, and a NaN wins, as in torch. */
INLINE void pool_four(const v *acc, int stride, v *y, int8_t *choice) {
  v best = acc[0];
  vi index = {0};
  UNROLL for (int q = 1; q < 4; q++) {
    v x = acc[(q >> 1) * stride + (q & 1)];
    vi better = (vi)(x > best) | (vi)(x != x);
    best = choose(better, x, best);
    index = choose_int(better, (vi){0} + q, index);
  }
  *y = best;
  *(vb *)choice = __builtin_convertvector(index, vb);
}

/* A outputs at R x T pixels, R = pool, before pooling. */
INLINE void forward_block(const Stage *s, const v *restrict x, const v *restrict w, const v *restrict b, v *restrict y,
                          int8_t *restrict choice, const int A, const int T) {
  const int R = s->pool, K = s->kernel, size = s->rows / s->pool * (s->columns / s->pool);
  v acc[ACCUMULATORS];
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < R * T; p++) acc[a * R * T + p] = b[a];
  for (int c = 0; c < s->inputs; c++)
    for (int ky = 0; ky < K; ky++) {
      const v *xr = x + (c * s->height + ky) * s->width, *wr = w + (c * K + ky) * K;
      UNROLL for (int kx = 0; kx < K; kx++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) {
        v pixel = xr[r * s->width + t + kx];
        UNROLL for (int a = 0; a < A; a++) acc[(a * R + r) * T + t] += wr[a * s->inputs * K * K + kx] * pixel;
      }
    }
  UNROLL for (int a = 0; a < A; a++) {
    if (R == 1)
      UNROLL for (int t = 0; t < T; t++) y[a * size + t] = acc[a * T + t];
    else
      UNROLL for (int t = 0; t < T / 2; t++)
        pool_four(acc + a * R * T + 2 * t, T, y + a * size + t, choice + (a * size + t) * LANES);
  }
}

INLINE void forward_outputs(const Stage *s, const v *x, const v *w, const v *b, v *y, int8_t *choice, int o, const int A) {
  const int T = s->forward_columns, columns = s->columns / s->pool, rest = s->columns % T;
  for (int row = 0; row < s->rows / s->pool; row++) {
    const v *xr = x + row * s->pool * s->width, *wo = w + o * s->inputs * s->kernel * s->kernel;
    const int at = (o * (s->rows / s->pool) + row) * columns;
    int t = 0;
    for (; t + T <= s->columns; t += T)
      forward_block(s, xr + t, wo, b + o, y + at + t / s->pool, choice + (at + t / s->pool) * LANES, A, T);
    if (rest) forward_block(s, xr + t, wo, b + o, y + at + t / s->pool, choice + (at + t / s->pool) * LANES, A, rest);
  }
}

/* y [outputs, rows / pool, columns / pool] before the activation, and which of its four pixels each came from. */
INLINE void forward(const Stage *s, const v *parameters, const v *x, v *y, int8_t *choice) {
  const v *w = parameters + s->weight, *b = parameters + s->bias;
  const int A = s->forward_outputs, rest = s->outputs % A;
  int o = 0;
  for (; o + A <= s->outputs; o += A) forward_outputs(s, x, w, b, y, choice, o, A);
  if (rest) forward_outputs(s, x, w, b, y, choice, o, rest);
}

/* Adds to gw [outputs …] the part of A outputs, whose gradient e [A, height, columns] starts at row `top`. */
INLINE void weight_block(const Stage *s, const v *restrict x, const v *restrict e, v *restrict gw, int top, int height,
                         const int A) {
  const int K = s->kernel, stride = height * s->columns;
  for (int c = 0; c < s->inputs; c++)
    for (int ky = 0; ky < K; ky++) {
      v *g = gw + (c * K + ky) * K;
      v acc[ACCUMULATORS];
      UNROLL for (int a = 0; a < A; a++) UNROLL for (int kx = 0; kx < K; kx++) acc[a * K + kx] = g[a * s->inputs * K * K + kx];
      for (int r = 0; r < height; r++) {
        const v *xr = x + (c * s->height + top + r + ky) * s->width, *er = e + r * s->columns;
        for (int t = 0; t < s->columns; t++)
          UNROLL for (int kx = 0; kx < K; kx++)
            UNROLL for (int a = 0; a < A; a++) acc[a * K + kx] += er[a * stride + t] * xr[t + kx];
      }
      UNROLL for (int a = 0; a < A; a++) UNROLL for (int kx = 0; kx < K; kx++) g[a * s->inputs * K * K + kx] = acc[a * K + kx];
    }
}

/* Adds to row `line` of gx, inputs c … c + A, columns t … t + T + kernel - 1, what `outputs` outputs give it. */
INLINE void input_block(const Stage *s, const v *restrict w, const v *restrict e, v *restrict gx, int line, int top,
                        int height, int outputs, int t, const int A, const int T) {
  const int K = s->kernel, W = T + K - 1, plane = s->height * s->width;
  const int low = MAX(0, line - top - height + 1), high = MIN(K - 1, line - top);
  v acc[ACCUMULATORS];
  v *g = gx + line * s->width + t;
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < W; p++) acc[a * W + p] = g[a * plane + p];
  for (int o = 0; o < outputs; o++)
    for (int ky = low; ky <= high; ky++) {
      const v *er = e + (o * height + line - top - ky) * s->columns + t, *wr = w + (o * s->inputs * K + ky) * K;
      UNROLL for (int kx = 0; kx < K; kx++) UNROLL for (int p = 0; p < T; p++)
        UNROLL for (int a = 0; a < A; a++) acc[a * W + p + kx] += wr[a * K * K + kx] * er[p];
    }
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < W; p++) g[a * plane + p] = acc[a * W + p];
}

INLINE void input_inputs(const Stage *s, const v *w, const v *e, v *gx, int top, int height, int outputs, int c,
                         const int A) {
  const int T = s->input_columns, rest = s->columns % T;
  w += c * s->kernel * s->kernel;
  gx += c * s->height * s->width;
  for (int line = top; line < top + height + s->kernel - 1; line++) {
    int t = 0;
    for (; t + T <= s->columns; t += T) input_block(s, w, e, gx, line, top, height, outputs, t, A, T);
    if (rest) input_block(s, w, e, gx, line, top, height, outputs, t, A, rest);
  }
}

/* Gradients of a strip of the layer's output, e [outputs, height, columns], from output o and row `top` on. */
INLINE void strip_backward(const Stage *s, const v *parameters, v *gradients, const v *x, const v *e, v *gx, int o,
                           const int outputs, int top, int height) {
  const int filter = s->inputs * s->kernel * s->kernel, size = height * s->columns;
  const int A = s->weight_outputs, rest = outputs % A;
  v *gw = gradients + s->weight + o * filter;
  int a = 0;
  for (; a + A <= outputs; a += A) weight_block(s, x, e + a * size, gw + a * filter, top, height, A);
  if (rest) weight_block(s, x, e + a * size, gw + a * filter, top, height, rest);
  if (!gx) return;
  const v *w = parameters + s->weight + o * filter;
  const int C = s->input_inputs, left = s->inputs % C;
  int c = 0;
  for (; c + C <= s->inputs; c += C) input_inputs(s, w, e, gx, top, height, outputs, c, C);
  if (left) input_inputs(s, w, e, gx, top, height, outputs, c, left);
}

/* The gradient of pooled pixels, put back at the pixels they came from. */
INLINE void unpool(const Stage *s, const v *g, const int8_t *choice, v *e, int outputs, int height) {
  const int columns = s->columns / 2, plane = s->rows / 2 * columns;
  for (int o = 0; o < outputs; o++)
    for (int r = 0; r < height / 2; r++)
      for (int t = 0; t < columns; t++) {
        const int at = o * plane + r * columns + t;
        vi index = __builtin_convertvector(*(const vb *)(choice + at * LANES), vi);
        UNROLL for (int q = 0; q < 4; q++)
          e[(o * height + 2 * r + (q >> 1)) * s->columns + 2 * t + (q & 1)] = (v)((vi)g[at] & (vi)(index == q));
      }
}

INLINE void backward_rows(const Stage *s, const v *parameters, v *gradients, const v *x, const v *g, const int8_t *choice,
                          v *gx, v *strip, int o, const int outputs, int top, const int height) {
  const int at = (o * s->rows / s->pool + top / s->pool) * (s->columns / s->pool);
  unpool(s, g + at, choice + at * LANES, strip, outputs, height);
  strip_backward(s, parameters, gradients, x, strip, gx, o, outputs, top, height);
}

INLINE void backward_outputs(const Stage *s, const v *parameters, v *gradients, const v *x, const v *g,
                             const int8_t *choice, v *gx, v *strip, int o, const int outputs) {
  int top = 0;
  for (; top + s->strip_rows <= s->rows; top += s->strip_rows)
    backward_rows(s, parameters, gradients, x, g, choice, gx, strip, o, outputs, top, s->strip_rows);
  if (s->rows % s->strip_rows)
    backward_rows(s, parameters, gradients, x, g, choice, gx, strip, o, outputs, top, s->rows % s->strip_rows);
}

/* Adds to the gradients of the weights and the bias, and sets gx, the gradient of x, unless it is null. */
INLINE void backward(const Stage *s, const v *parameters, v *gradients, const v *x, const v *g, const int8_t *choice, v *gx,
                     v *strip) {
  const int size = s->rows / s->pool * (s->columns / s->pool);
  for (int o = 0; o < s->outputs; o++) {
    v sum = {0};
    for (int t = 0; t < size; t++) sum += g[o * size + t];
    gradients[s->bias + o] += sum;
  }
  if (gx) memset(gx, 0, sizeof(v) * s->inputs * s->height * s->width);
  if (s->pool == 1) {
    strip_backward(s, parameters, gradients, x, g, gx, 0, s->outputs, 0, s->rows);
    return;
  }
  const int A = s->strip_outputs;
  int o = 0;
  for (; o + A <= s->outputs; o += A) backward_outputs(s, parameters, gradients, x, g, choice, gx, strip, o, A);
  if (s->outputs % A) backward_outputs(s, parameters, gradients, x, g, choice, gx, strip, o, s->outputs % A);
}

typedef struct {
  const Stage *stage;
  void (*forward)(const v *, const v *, v *, int8_t *);
  void (*backward)(const v *, v *, const v *, const v *, const int8_t *, v *, v *);
} Layer;

#define DEFINE_STAGE(name, ...)                                                                                  \
  static const Stage name = {__VA_ARGS__};                                                                       \
  NOINLINE void name##_forward(const v *p, const v *x, v *y, int8_t *choice) { forward(&name, p, x, y, choice); } \
  NOINLINE void name##_backward(const v *p, v *gp, const v *x, const v *g, const int8_t *choice, v *gx, v *strip) { \
    if (FIRST(name)) backward(&name, p, gp, x, g, choice, 0, strip);                                             \
    else backward(&name, p, gp, x, g, choice, gx, strip);                                                        \
  }
#define FIRST(name) (name.weight == 0) /* the images need no gradient */
STAGES(DEFINE_STAGE)

#define LIST_STAGE(name, ...) {&name, name##_forward, name##_backward},
static const Layer LAYERS[] = {STAGES(LIST_STAGE)};
enum { DEPTH = sizeof LAYERS / sizeof *LAYERS };

INLINE int units(const Stage *s) { return s->outputs * (s->rows / s->pool) * (s->columns / s->pool); }

/* ---- elementary functions: within a few units in the last place, NaN stays NaN ------------------------ */

/* Cody-Waite reduction and the polynomial of Cephes' expf. */
INLINE v exp_v(v x) {
  x = choose(x > 89.f, splat(89.f), x);
  x = choose(x < -104.f, splat(-104.f), x);
  v shifted = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23: rounds to an integer, kept in the low bits */
  vi n = (vi)shifted - 0x4B400000;
  v r = x, whole = shifted - 12582912.f;
  r = whole * -0.693145752f + r;
  r = whole * -1.42860677e-6f + r;
  v p = splat(1.98756912e-4f);
  p = p * r + 1.39819994e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  vi half = n >> 1; /* two factors, so that the smallest and the largest results are reached */
  return p * (v)((half + 127) << 23) * (v)((n - half + 127) << 23);
}

INLINE v clamp(v x, float bound) {
  x = choose(x > bound, splat(bound), x);
  return choose(x < -bound, splat(-bound), x);
}

/* Rational minimax approximation with the coefficients of Eigen's fast tanh. */
INLINE v tanh_v(v x) {
  v c = clamp(x, 7.99881172180175781f), s = c * c;
  v p = splat(-2.76076847742355e-16f);
  p = p * s + 2.00018790482477e-13f;
  p = p * s + -8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  v q = splat(1.19825839466702e-06f);
  q = q * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  vi small = (vi)(c < 4e-4f) & (vi)(c > -4e-4f);
  return choose(small, x, c * p / q);
}

/* Rational minimax approximation of XLA's and Eigen's erf; 1 where it rounds to 1. */
INLINE v erf_v(v x) {
  v c = clamp(x, 3.832506856900711f), s = c * c;
  v p = splat(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s + -2.10102402082508e-06f;
  p = p * s + -5.69250639462346e-05f;
  p = p * s + -7.34990630326855e-04f;
  p = p * s + -2.95459980854025e-03f;
  p = p * s + -1.60960333262415e-02f;
  v q = splat(-1.45660718464996e-05f);
  q = q * s + -2.13374055278905e-04f;
  q = q * s + -1.68282697438203e-03f;
  q = q * s + -7.37332916720468e-03f;
  q = q * s + -1.42647390514189e-02f;
  v y = choose(x >= 3.832506856900711f, splat(1.f), c * p / q);
  return choose(x <= -3.832506856900711f, splat(-1.f), y);
}

INLINE v sqrt_v(v x) {
#if LANES == 16 && defined(__AVX512F__) && defined(__AVX512DQ__)
  return (v)_mm512_sqrt_ps((__m512)x);
#else
  v y;
  for (int l = 0; l < LANES; l++) y[l] = __builtin_sqrtf(x[l]);
  return y;
#endif
}

/* Value of the activation in y, derivative in d. */
INLINE void activation(const int kind, v x, v *y, v *d) {
  switch (kind) {
    case TANH:
      *y = tanh_v(x);
      *d = 1.f - *y * *y;
      break;
    case RELU: /* not x > 0: a NaN passes */
      *y = (v)((vi)x & ~(vi)(x <= 0.f));
      *d = (v)((vi)splat(1.f) & ~(vi)(x <= 0.f));
      break;
    case SIGMOID:
      *y = 1.f / (1.f + exp_v(-x));
      *d = *y * (1.f - *y);
      break;
    default: { /* GELU */
      v cdf = 0.5f + 0.5f * erf_v(x * 0.70710678f);
      *y = x * cdf;
      *d = cdf + x * exp_v(x * x * -0.5f) * 0.39894228f;
    }
  }
}

/* ---- random numbers: Philox4x32-10, a key a lane ------------------------------------------------------ */

INLINE void multiply(vu x, uint32_t m, vu *high, vu *low) {
#if LANES == 16 && defined(__AVX512F__) && defined(__AVX512DQ__)
  __m512i factor = _mm512_set1_epi64(m), a = (__m512i)x;
  __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  *low = (vu)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  *high = (vu)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#else
  vw product = __builtin_convertvector(x, vw) * (uint64_t)m;
  *low = __builtin_convertvector(product, vu);
  *high = __builtin_convertvector(product >> 32, vu);
#endif
}

INLINE void philox(const vu key[2], const uint32_t counter[4], vu words[4]) {
  vu c0 = (vu){0} + counter[0], c1 = (vu){0} + counter[1], c2 = (vu){0} + counter[2], c3 = (vu){0} + counter[3];
  vu k0 = key[0], k1 = key[1], high0, low0, high1, low1;
  UNROLL for (int round = 0; round < 10; round++) {
    multiply(c0, 0xD2511F53u, &high0, &low0);
    multiply(c2, 0xCD9E8D57u, &high1, &low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

/* ---- one sample --------------------------------------------------------------------------------------- */

typedef struct {
  v *output[DEPTH], *slope[DEPTH], *gradient[DEPTH]; /* slope: derivative of the output by the value pooled */
  int8_t *choice[DEPTH];
  v *input, *strip, *gradients;
} Workspace;

typedef struct {
  v *parameters, *first, *second;                /* [PARAMETERS]; Adam's moments, or SGD's momentum buffer in `first` */
  char *workspace;                               /* workspace_size() bytes */
  const uint8_t *images;                         /* [N, CHANNELS, PIXELS] */
  const int64_t *labels;                         /* [N] */
  const float *normalised;                       /* [CHANNELS, 256]: what each byte becomes */
  const int32_t *order;                          /* [LANES, length], from the first step on */
  int64_t length, batch_size, first_step, steps, steps_before; /* first_step: in the epoch; steps_before: in all */
  const double *lr;                              /* [steps, LANES] */
  const float *momentum, *weight_decay;          /* [steps, LANES] */
  const uint32_t *keys, *threshold;              /* [2, LANES], [LANES] */
  const float *scale;                            /* [LANES] 1 / (1 - rate) */
  double *loss;                                  /* [LANES], added to */
  int64_t *correct;                              /* [LANES], added to */
  int32_t epoch, activation, optimizer, dropout; /* dropout: whether any lane drops */
} Job;

static char *carve(char **at, int64_t bytes) {
  char *start = *at;
  *at += (bytes + 63) / 64 * 64;
  return start;
}

static int64_t lay_out(char *start, Workspace *space) {
  char *at = start;
  space->input = (v *)carve(&at, (int64_t)sizeof(v) * CHANNELS * PIXELS);
  for (int i = 0; i < DEPTH; i++) {
    const int64_t n = units(LAYERS[i].stage);
    space->output[i] = (v *)carve(&at, n * sizeof(v));
    space->slope[i] = (v *)carve(&at, n * sizeof(v));
    space->gradient[i] = (v *)carve(&at, n * sizeof(v));
    space->choice[i] = (int8_t *)carve(&at, n * LANES);
  }
  space->strip = (v *)carve(&at, (int64_t)sizeof(v) * STRIP);
  space->gradients = (v *)carve(&at, (int64_t)sizeof(v) * PARAMETERS);
  return at - start;
}

static void gather(const Job *job, const int64_t position, v *restrict x, vi *labels) {
  const uint8_t *images[LANES];
  for (int l = 0; l < LANES; l++) {
    const int64_t index = job->order[l * job->length + position];
    images[l] = job->images + index * CHANNELS * PIXELS;
    (*labels)[l] = (int32_t)job->labels[index];
  }
  float *out = (float *)x;
  for (int c = 0; c < CHANNELS; c++) {
    const float *table = job->normalised + 256 * c;
    for (int p = c * PIXELS; p < (c + 1) * PIXELS; p++)
      for (int l = 0; l < LANES; l++) out[p * LANES + l] = table[images[l][p]];
  }
}

INLINE void activate_with(const int kind, v *y, v *d, int n) {
  for (int i = 0; i < n; i++) activation(kind, y[i], y + i, d + i);
}

NOINLINE void activate(int kind, v *y, v *d, int n) {
  switch (kind) {
    case TANH: activate_with(TANH, y, d, n); break;
    case RELU: activate_with(RELU, y, d, n); break;
    case SIGMOID: activate_with(SIGMOID, y, d, n); break;
    default: activate_with(GELU, y, d, n);
  }
}

/* Element `sample * n + unit` of the stream of this dropout layer decides about a unit. */
NOINLINE void drop(const Job *job, const Stage *s, uint32_t step, int64_t sample, v *y, v *d, int n) {
  const vu *threshold = (const vu *)job->threshold;
  const v scale = *(const v *)job->scale;
  const int64_t start = sample * n, end = start + n;
  for (int64_t block = start / 4; 4 * block < end; block++) {
    const uint32_t counter[4] = {block, step, job->epoch, DROPOUT + 256 * s->dropout};
    vu words[4];
    philox((const vu *)job->keys, counter, words);
    for (int j = 0; j < 4; j++) {
      const int64_t i = 4 * block + j - start;
      if (i < 0 || i >= n) continue;
      v factor = (v)((vi)scale & (vi)(words[j] >= *threshold));
      y[i] *= factor;
      d[i] *= factor;
    }
  }
}

static void forward_sample(const Job *job, const Workspace *w, int training, uint32_t step, int64_t sample) {
  const v *x = w->input;
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    LAYERS[i].forward(job->parameters, x, w->output[i], w->choice[i]);
    if (s->activate) activate(job->activation, w->output[i], w->slope[i], units(s));
    else if (s->dropout >= 0)
      for (int u = 0; u < units(s); u++) w->slope[i][u] = splat(1.f);
    if (training && s->dropout >= 0 && job->dropout) drop(job, s, step, sample, w->output[i], w->slope[i], units(s));
    x = w->output[i];
  }
}

/* Cross-entropy of each lane; `gradient` [CLASSES] becomes that of the logits, divided by `images`. */
static void cross_entropy(const Job *job, const v *logits, vi labels, v *gradient, int64_t images) {
  v best = logits[0];
  vi index = {0};
  for (int c = 1; c < CLASSES; c++) {
    vi better = (vi)(logits[c] > best) | ((vi)(logits[c] != logits[c]) & (vi)(best == best));
    best = choose(better, logits[c], best);
    index = choose_int(better, (vi){0} + c, index);
  }
  v sum = {0}, picked = {0};
  for (int c = 0; c < CLASSES; c++) {
    gradient[c] = exp_v(logits[c] - best);
    sum += gradient[c];
    picked = choose(labels == c, logits[c], picked);
  }
  for (int l = 0; l < LANES; l++) {
    job->loss[l] += logf(sum[l]) - (picked[l] - best[l]);
    job->correct[l] += index[l] == labels[l];
  }
  const float share = 1.f / images;
  for (int c = 0; c < CLASSES; c++) {
    v target = (v)((vi)splat(1.f) & (vi)(labels == c));
    gradient[c] = (gradient[c] / sum - target) * share;
  }
}

static void backward_sample(const Job *job, const Workspace *w) {
  for (int i = DEPTH - 1; i >= 0; i--) {
    const Stage *s = LAYERS[i].stage;
    v *g = w->gradient[i];
    if (s->activate || s->dropout >= 0)
      for (int u = 0; u < units(s); u++) g[u] *= w->slope[i][u];
    LAYERS[i].backward(job->parameters, w->gradients, i ? w->output[i - 1] : w->input, g, w->choice[i],
                       i ? w->gradient[i - 1] : 0, w->strip);
  }
}

/* ---- optimizers: torch.optim.Adam (L2 weight decay) and torch.optim.SGD ------------------------------- */

static void adam(const Job *job, const v *gradients, int64_t i) {
  const int64_t count = job->steps_before + i + 1;
  const double *lr = job->lr + i * LANES;
  const float first_weight = (float)(1 - 0.9), second_weight = (float)(1 - 0.999);
  const float scale = (float)(1 / sqrt(1 - pow(0.999, (double)count)));
  const v decay = ((const v *)job->weight_decay)[i];
  v step;
  for (int l = 0; l < LANES; l++) step[l] = (float)(lr[l] / (1 - pow(0.9, (double)count)));
  for (int k = 0; k < PARAMETERS; k++) {
    v p = job->parameters[k], m = job->first[k], u = job->second[k];
    v g = gradients[k] + decay * p;
    m += (g - m) * first_weight;
    u = u * 0.999f + g * g * second_weight;
    job->parameters[k] = p - step * m / (sqrt_v(u) * scale + 1e-8f);
    job->first[k] = m;
    job->second[k] = u;
  }
}

static void sgd(const Job *job, const v *gradients, int64_t i) {
  const v decay = ((const v *)job->weight_decay)[i], keep = ((const v *)job->momentum)[i];
  const double *lr = job->lr + i * LANES;
  v step;
  for (int l = 0; l < LANES; l++) step[l] = (float)lr[l];
  for (int k = 0; k < PARAMETERS; k++) {
    v p = job->parameters[k];
    v buffer = job->first[k] * keep + (gradients[k] + decay * p);
    job->parameters[k] = p - step * buffer;
    job->first[k] = buffer;
  }
}

/* ---- entry points ------------------------------------------------------------------------------------- */

int32_t zoo_lanes(void) { return LANES; }
int64_t zoo_job_size(void) { return sizeof(Job); }
int64_t zoo_parameters(void) { return PARAMETERS; }
int64_t zoo_workspace_size(void) {
  Workspace space;
  return lay_out(0, &space);
}

/* Takes `steps` steps; with GRADIENTS_ONLY one, whose gradients are copied to `first`. */
void zoo_train(const Job *job) {
  Workspace w;
  lay_out(job->workspace, &w);
  for (int64_t i = 0; i < job->steps; i++) {
    const int64_t step = job->first_step + i, start = i * job->batch_size;
    const int64_t images = MIN(job->batch_size, job->length - start);
    memset(w.gradients, 0, sizeof(v) * PARAMETERS);
    for (int64_t sample = 0; sample < images; sample++) {
      vi labels;
      gather(job, start + sample, w.input, &labels);
      forward_sample(job, &w, 1, (uint32_t)step, sample);
      cross_entropy(job, w.output[DEPTH - 1], labels, w.gradient[DEPTH - 1], images);
      backward_sample(job, &w);
    }
    if (job->optimizer == ADAM) adam(job, w.gradients, i);
    else if (job->optimizer == SGD) sgd(job, w.gradients, i);
    else memcpy(job->first, w.gradients, sizeof(v) * PARAMETERS);
  }
}

/* Adds up loss and correct predictions on `length` images in file order, which all lanes share. */
void zoo_evaluate(const Job *job) {
  Workspace w;
  lay_out(job->workspace, &w);
  for (int64_t i = 0; i < job->length; i++) {
    const uint8_t *image = job->images + i * CHANNELS * PIXELS;
    for (int c = 0; c < CHANNELS; c++)
      for (int p = c * PIXELS; p < (c + 1) * PIXELS; p++) w.input[p] = splat(job->normalised[256 * c + image[p]]);
    forward_sample(job, &w, 0, 0, 0);
    cross_entropy(job, w.output[DEPTH - 1], (vi){0} + (int32_t)job->labels[i], w.gradient[DEPTH - 1], 1);
  }
}

/* Four words of a lane's Philox stream, for tests: key [2], counter [4], words [4]. */
void zoo_philox(const uint32_t *key, const uint32_t *counter, uint32_t *words) {
  vu keys[2] = {(vu){0} + key[0], (vu){0} + key[1]}, result[4];
  philox(keys, counter, result);
  for (int j = 0; j < 4; j++) words[j] = result[j][LANES - 1];
}

/* Value and derivative of an activation, for tests: n floats each, n a multiple of LANES. */
void zoo_activation(int32_t kind, const float *x, float *y, float *d, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) {
    v value, slope;
    memcpy(&value, x + i, sizeof value);
    activate(kind, &value, &slope, 1);
    memcpy(y + i, &value, sizeof value);
    memcpy(d + i, &slope, sizeof slope);
  }
}
