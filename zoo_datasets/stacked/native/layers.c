/* Convolution and linear layers with the pooling behind them, forward and backward; see native.c.
 *
 * The compilation defines, before this file:
 *   LANES                 members in a block, which is the number of floats in a vector register
 *   CHANNELS, PIXELS      of an image
 *   CLASSES, PARAMETERS   of the network; parameters lie in the order of the weight layout
 *   BUFFERS, NORMS        of the network: numbers of its running statistics, and how many normalisations it has
 *   SLOTS                 for gradients of stages; those whose times do not overlap share one
 *   REMADE                vectors of the largest normalisation that is made anew for the backward pass
 *   STRIP                 vectors of the scratch area for gradients before pooling
 *   PADDED                … of those for an input with its padding, and for its gradient
 *   STAGES(S)             S(name, fields of Stage …) for each stage: a convolution or linear layer with the max-pooling
 *                         behind it, or another kind, with the activation and the dropout that follow it
 * Sizes are constants, so the compiler keeps the blocks of accumulators in registers.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
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

enum { CONV, AVERAGE, MAXIMUM, NORM, SUM };
enum { TANH, RELU, SIGMOID, GELU, SILU, LEAKY_RELU, ELU, SELU, NONE };
enum { GRADIENTS_ONLY, ADAM, SGD, ADAMW, SGD_NESTEROV, RMSPROP };
enum { ACCUMULATORS = 32, DROPOUT = 2, IMAGES = -1, MEMBERS = 1, FIRST_OWN = 2 };

typedef struct {
  int kind, source, other;                         /* which stages it reads, IMAGES for none; `other`: of a sum */
  int adds, adds_other;                            /* whether the gradients of these are there to be added to */
  int inputs, height, width;                       /* of the input with its padding; 1 x 1 for a linear layer */
  int outputs, rows, columns;                      /* rows and columns that reach the output of the stage */
  int kernel, stride, padding;                     /* of a convolution */
  int pool;                                        /* 2: max-pooling by 2 follows a convolution; 1: none */
  int window_rows, window_columns;                 /* of pooling on its own */
  int activate;                                    /* 0: no activation; MEMBERS; FIRST_OWN and more: one of its own */
  int dropout;                                     /* number of the dropout layer that follows, or -1 */
  int weight, bias, biased;                        /* offsets in the parameters, and whether there is a bias */
  int noise;                                       /* number among the layers that have noise, or -1 */
  int mean, variance;                              /* offsets in the running statistics */
  float sine, shift;                               /* the frequency of a sine, 0: none; what is added to the output */
  int slot;                                        /* for the gradient of what the stage gives */
  int remade;                                      /* whether a normalisation is made anew in the backward pass */
  int forward_outputs, forward_columns;            /* block of accumulators of the forward pass */
  int weight_outputs, weight_inputs;               /* … of the gradient of the weights; inputs: of 1 x 1 filters */
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
  const int R = s->pool, K = s->kernel, S = s->stride, size = s->rows / s->pool * (s->columns / s->pool);
  v acc[ACCUMULATORS];
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < R * T; p++)
    acc[a * R * T + p] = s->biased ? b[a] : splat(0.f);
  for (int c = 0; c < s->inputs; c++)
    for (int ky = 0; ky < K; ky++) {
      const v *xr = x + (c * s->height + ky) * s->width, *wr = w + (c * K + ky) * K;
      UNROLL for (int kx = 0; kx < K; kx++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) {
        v pixel = xr[r * S * s->width + t * S + kx];
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
    const v *xr = x + row * s->pool * s->stride * s->width, *wo = w + o * s->inputs * s->kernel * s->kernel;
    const int at = (o * (s->rows / s->pool) + row) * columns;
    int t = 0;
    for (; t + T <= s->columns; t += T)
      forward_block(s, xr + t * s->stride, wo, b + o, y + at + t / s->pool, choice + (at + t / s->pool) * LANES, A, T);
    if (rest) forward_block(s, xr + t * s->stride, wo, b + o, y + at + t / s->pool, choice + (at + t / s->pool) * LANES, A, rest);
  }
}

/* Images with zeros around them, and the gradient within it, set or added to that of the image. */
INLINE const v *padded(const Stage *s, const v *restrict x, v *restrict out) {
  const int P = s->padding, W = s->width, H = s->height, columns = W - 2 * P;
  if (P == 0) return x;
  for (int c = 0; c < s->inputs; c++)
    for (int r = 0; r < H; r++) {
      v *to = out + (c * H + r) * W;
      if (r < P || r >= H - P) {
        memset(to, 0, sizeof(v) * W);
        continue;
      }
      memset(to, 0, sizeof(v) * P);
      memcpy(to + P, x, sizeof(v) * columns);
      memset(to + P + columns, 0, sizeof(v) * P);
      x += columns;
    }
  return out;
}

INLINE void unpad(const Stage *s, const v *restrict from, v *restrict gx) {
  const int P = s->padding, W = s->width, H = s->height, columns = W - 2 * P;
  for (int c = 0; c < s->inputs; c++)
    for (int r = P; r < H - P; r++, gx += columns)
      for (int t = 0; t < columns; t++) {
        v g = from[(c * H + r) * W + P + t];
        gx[t] = s->adds ? gx[t] + g : g;
      }
}

/* y [outputs, rows / pool, columns / pool] before the activation, and which of its four pixels each came from. */
INLINE void forward(const Stage *s, const v *parameters, const v *x, v *y, int8_t *choice, v *scratch) {
  x = padded(s, x, scratch + STRIP);
  const v *w = parameters + s->weight, *b = parameters + s->bias;
  const int A = s->forward_outputs, rest = s->outputs % A;
  int o = 0;
  for (; o + A <= s->outputs; o += A) forward_outputs(s, x, w, b, y, choice, o, A);
  if (rest) forward_outputs(s, x, w, b, y, choice, o, rest);
}

/* Adds to gw [outputs …] the part of A outputs, whose gradient e [A, height, columns] starts at row `top`. */
INLINE void weight_block(const Stage *s, const v *restrict x, const v *restrict e, v *restrict gw, int top, int height,
                         const int A) {
  const int K = s->kernel, S = s->stride, plane = height * s->columns;
  for (int c = 0; c < s->inputs; c++)
    for (int ky = 0; ky < K; ky++) {
      v *g = gw + (c * K + ky) * K;
      v acc[ACCUMULATORS];
      UNROLL for (int a = 0; a < A; a++) UNROLL for (int kx = 0; kx < K; kx++) acc[a * K + kx] = g[a * s->inputs * K * K + kx];
      for (int r = 0; r < height; r++) {
        const v *xr = x + (c * s->height + (top + r) * S + ky) * s->width, *er = e + r * s->columns;
        for (int t = 0; t < s->columns; t++)
          UNROLL for (int kx = 0; kx < K; kx++)
            UNROLL for (int a = 0; a < A; a++) acc[a * K + kx] += er[a * plane + t] * xr[t * S + kx];
      }
      UNROLL for (int a = 0; a < A; a++) UNROLL for (int kx = 0; kx < K; kx++) g[a * s->inputs * K * K + kx] = acc[a * K + kx];
    }
}

/* As weight_block for 1 x 1 filters, C inputs at a time; each sum is added up in the same order. */
INLINE void point_block(const Stage *s, const v *restrict x, const v *restrict e, v *restrict gw, int top, int height,
                        const int A, const int C) {
  const int S = s->stride, plane = height * s->columns, area = s->height * s->width;
  v acc[ACCUMULATORS];
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int c = 0; c < C; c++) acc[a * C + c] = gw[a * s->inputs + c];
  for (int r = 0; r < height; r++) {
    const v *xr = x + (top + r) * S * s->width, *er = e + r * s->columns;
    for (int t = 0; t < s->columns; t++)
      UNROLL for (int c = 0; c < C; c++) UNROLL for (int a = 0; a < A; a++)
        acc[a * C + c] += er[a * plane + t] * xr[c * area + t * S];
  }
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int c = 0; c < C; c++) gw[a * s->inputs + c] = acc[a * C + c];
}

INLINE void weight_outputs(const Stage *s, const v *x, const v *e, v *gw, int top, int height, const int A) {
  const int C = s->weight_inputs, rest = s->inputs % C, area = s->height * s->width;
  if (s->kernel > 1 || C == 1) {
    weight_block(s, x, e, gw, top, height, A);
    return;
  }
  int c = 0;
  for (; c + C <= s->inputs; c += C) point_block(s, x + c * area, e, gw + c, top, height, A, C);
  if (rest) point_block(s, x + c * area, e, gw + c, top, height, A, rest);
}

/* Adds to row `line` of gx, inputs c … c + A, columns from t * stride on, what `outputs` outputs give it. */
INLINE void input_block(const Stage *s, const v *restrict w, const v *restrict e, v *restrict gx, int line, int top,
                        int height, int outputs, int t, const int A, const int T) {
  const int K = s->kernel, S = s->stride, W = (T - 1) * S + K, plane = s->height * s->width;
  const int low = MAX(0, line - (top + height - 1) * S), high = MIN(K - 1, line - top * S);
  v acc[ACCUMULATORS];
  v *g = gx + line * s->width + t * S;
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < W; p++) acc[a * W + p] = g[a * plane + p];
  for (int o = 0; o < outputs; o++)
    for (int ky = low + (line - low) % S; ky <= high; ky += S) {
      const v *er = e + (o * height + (line - ky) / S - top) * s->columns + t, *wr = w + (o * s->inputs * K + ky) * K;
      UNROLL for (int kx = 0; kx < K; kx++) UNROLL for (int p = 0; p < T; p++)
        UNROLL for (int a = 0; a < A; a++) acc[a * W + p * S + kx] += wr[a * K * K + kx] * er[p];
    }
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int p = 0; p < W; p++) g[a * plane + p] = acc[a * W + p];
}

INLINE void input_inputs(const Stage *s, const v *w, const v *e, v *gx, int top, int height, int outputs, int c,
                         const int A) {
  const int T = s->input_columns, rest = s->columns % T;
  w += c * s->kernel * s->kernel;
  gx += c * s->height * s->width;
  for (int line = top * s->stride; line < (top + height - 1) * s->stride + s->kernel; line++) {
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
  for (; a + A <= outputs; a += A) weight_outputs(s, x, e + a * size, gw + a * filter, top, height, A);
  if (rest) weight_outputs(s, x, e + a * size, gw + a * filter, top, height, rest);
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

/* Adds to the gradients of the weights and the bias; sets gx, the gradient of x with its padding, unless it is null. */
INLINE void convolved_backward(const Stage *s, const v *parameters, v *gradients, const v *x, const v *g,
                               const int8_t *choice, v *gx, v *strip) {
  const int size = s->rows / s->pool * (s->columns / s->pool);
  for (int o = 0; s->biased && o < s->outputs; o++) {
    v sum = {0};
    for (int t = 0; t < size; t++) sum += g[o * size + t];
    gradients[s->bias + o] += sum;
  }
  if (gx && !(s->adds && s->padding == 0)) memset(gx, 0, sizeof(v) * s->inputs * s->height * s->width);
  if (s->pool == 1) {
    strip_backward(s, parameters, gradients, x, g, gx, 0, s->outputs, 0, s->rows);
    return;
  }
  const int A = s->strip_outputs;
  int o = 0;
  for (; o + A <= s->outputs; o += A) backward_outputs(s, parameters, gradients, x, g, choice, gx, strip, o, A);
  if (s->outputs % A) backward_outputs(s, parameters, gradients, x, g, choice, gx, strip, o, s->outputs % A);
}

INLINE void backward(const Stage *s, const v *parameters, v *gradients, const v *x, const v *g, const int8_t *choice, v *gx,
                     v *scratch) {
  v *around = scratch + STRIP + PADDED;
  x = padded(s, x, scratch + STRIP);
  convolved_backward(s, parameters, gradients, x, g, choice, gx && s->padding ? around : gx, scratch);
  if (gx && s->padding) unpad(s, around, gx);
}

/* ---- pooling on its own: windows side by side; pixels that fill none are left out ----------------------- */

INLINE void average_forward(const Stage *s, const v *x, v *y) {
  const int H = s->window_rows, W = s->window_columns;
  for (int c = 0; c < s->inputs; c++)
    for (int r = 0; r < s->rows; r++)
      for (int t = 0; t < s->columns; t++) {
        v sum = {0};
        for (int i = 0; i < H; i++)
          for (int j = 0; j < W; j++) sum += x[(c * s->height + r * H + i) * s->width + t * W + j];
        *y++ = sum / (float)(H * W);
      }
}

/* The first maximum in row-major order; a NaN wins. */
INLINE void maximum_forward(const Stage *s, const v *x, v *y, int8_t *choice) {
  const int H = s->window_rows, W = s->window_columns;
  for (int c = 0; c < s->inputs; c++)
    for (int r = 0; r < s->rows; r++)
      for (int t = 0; t < s->columns; t++) {
        const v *from = x + (c * s->height + r * H) * s->width + t * W;
        v best = *from;
        vi index = {0};
        for (int q = 1; q < H * W; q++) {
          v pixel = from[q / W * s->width + q % W];
          vi better = (vi)(pixel > best) | (vi)(pixel != pixel);
          best = choose(better, pixel, best);
          index = choose_int(better, (vi){0} + q, index);
        }
        *y++ = best;
        *(vb *)choice = __builtin_convertvector(index, vb);
        choice += LANES;
      }
}

/* Sets or adds to gx, the gradient of x. */
INLINE void pooled_backward(const Stage *s, const v *g, const int8_t *choice, v *gx) {
  const int H = s->window_rows, W = s->window_columns;
  if (!s->adds) memset(gx, 0, sizeof(v) * s->inputs * s->height * s->width);
  for (int c = 0; c < s->inputs; c++)
    for (int r = 0; r < s->rows; r++)
      for (int t = 0; t < s->columns; t++, g++, choice += LANES) {
        v *to = gx + (c * s->height + r * H) * s->width + t * W;
        v share = *g / (float)(H * W);
        vi index = {0};
        if (s->kind == MAXIMUM) index = __builtin_convertvector(*(const vb *)choice, vi);
        for (int q = 0; q < H * W; q++)
          to[q / W * s->width + q % W] += s->kind == MAXIMUM ? (v)((vi)*g & (vi)(index == q)) : share;
      }
}

INLINE void stage_forward(const Stage *s, const v *p, const v *x, v *y, int8_t *choice, v *scratch) {
  if (s->kind == CONV) forward(s, p, x, y, choice, scratch);
  else if (s->kind == AVERAGE) average_forward(s, x, y);
  else if (s->kind == MAXIMUM) maximum_forward(s, x, y, choice);
}

INLINE void stage_backward(const Stage *s, const v *p, v *gp, const v *x, const v *g, const int8_t *choice, v *gx,
                           v *scratch) {
  if (s->kind == CONV) backward(s, p, gp, x, g, choice, gx, scratch);
  else if (gx && (s->kind == AVERAGE || s->kind == MAXIMUM)) pooled_backward(s, g, choice, gx);
}

typedef struct {
  const Stage *stage;
  void (*forward)(const v *, const v *, v *, int8_t *, v *);
  void (*backward)(const v *, v *, const v *, const v *, const int8_t *, v *, v *);
} Layer;

#define DEFINE_STAGE(name, ...)                                                                                       \
  static const Stage name = {__VA_ARGS__};                                                                            \
  NOINLINE void name##_forward(const v *p, const v *x, v *y, int8_t *choice, v *scratch) {                            \
    stage_forward(&name, p, x, y, choice, scratch);                                                                   \
  }                                                                                                                   \
  NOINLINE void name##_backward(const v *p, v *gp, const v *x, const v *g, const int8_t *choice, v *gx, v *scratch) { \
    stage_backward(&name, p, gp, x, g, choice, name.source == IMAGES ? 0 : gx, scratch); /* images need none */       \
  }
STAGES(DEFINE_STAGE)

#define LIST_STAGE(name, ...) {&name, name##_forward, name##_backward},
static const Layer LAYERS[] = {STAGES(LIST_STAGE)};
enum { DEPTH = sizeof LAYERS / sizeof *LAYERS };

INLINE int units(const Stage *s) { return s->outputs * (s->rows / s->pool) * (s->columns / s->pool); }
