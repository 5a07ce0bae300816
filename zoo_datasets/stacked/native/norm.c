/* Batch normalisation and sums of branches; see native.c. */

/* Of one normalisation, [channels] each. */
typedef struct {
  v *mean, *square;          /* of the batch so far: mean, and sum of squared distances from it */
  v *inverse, *scale, *shift; /* 1 / deviation; y = scale x + shift */
  v *by_value, *by_input;    /* sums of the gradient of y, and of it times the distance of x from the mean */
} Statistics;
enum { STATISTICS = 7 };

#define NORM_EPSILON 1e-5f
#define NORM_MOMENTUM 0.1f

INLINE Statistics statistics_at(v *numbers, int channels) {
  Statistics t;
  v **fields[STATISTICS] = {&t.mean, &t.square, &t.inverse, &t.scale, &t.shift, &t.by_value, &t.by_input};
  for (int i = 0; i < STATISTICS; i++) *fields[i] = numbers + i * channels;
  return t;
}

INLINE int pixels(const Stage *s) { return s->rows * s->columns; }

static void clear(const Stage *s, const Statistics *t) {
  const size_t size = sizeof(v) * s->outputs;
  memset(t->mean, 0, size), memset(t->square, 0, size), memset(t->by_value, 0, size), memset(t->by_input, 0, size);
}

/* Adds a sample to mean and squares: exact sums within the sample, joined as by Chan, Golub and LeVeque. */
NOINLINE void collect(const Stage *s, const Statistics *t, const v *restrict x, int64_t sample) {
  const int n = pixels(s);
  const float count = n, before = (float)(sample * n), all = before + count;
  for (int c = 0; c < s->outputs; c++, x += n) {
    v sum[4] = {{0}}, square[4] = {{0}};
    int p = 0;
    for (; p + 4 <= n; p += 4) UNROLL for (int q = 0; q < 4; q++) sum[q] += x[p + q];
    for (; p < n; p++) sum[0] += x[p];
    const v mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / count;
    for (p = 0; p + 4 <= n; p += 4) UNROLL for (int q = 0; q < 4; q++) {
      v distance = x[p + q] - mean;
      square[q] += distance * distance;
    }
    for (; p < n; p++) square[0] += (x[p] - mean) * (x[p] - mean);
    const v step = mean - t->mean[c];
    t->mean[c] += step * (count / all);
    t->square[c] += (square[0] + square[1]) + (square[2] + square[3]) + step * step * (before * (count / all));
  }
}

INLINE void settle_channel(const Stage *s, const Statistics *t, const v *parameters, int c, v mean, v variance) {
  t->inverse[c] = 1.f / sqrt_v(variance + NORM_EPSILON);
  t->scale[c] = parameters[s->weight + c] * t->inverse[c];
  t->shift[c] = parameters[s->bias + c] - mean * t->scale[c];
}

/* Once the batch is complete; the running variance takes the unbiased one, as in torch. */
static void settle(const Stage *s, const Statistics *t, const v *parameters, v *buffers, int64_t images) {
  const float count = (float)(images * pixels(s));
  for (int c = 0; c < s->outputs; c++) {
    v *mean = buffers + s->mean + c, *variance = buffers + s->variance + c;
    settle_channel(s, t, parameters, c, t->mean[c], t->square[c] / count);
    *mean = *mean * (1.f - NORM_MOMENTUM) + t->mean[c] * NORM_MOMENTUM;
    *variance = *variance * (1.f - NORM_MOMENTUM) + t->square[c] / (count - 1.f) * NORM_MOMENTUM;
  }
}

/* Outside of training, by the running statistics. */
static void settle_running(const Stage *s, const Statistics *t, const v *parameters, const v *buffers) {
  for (int c = 0; c < s->outputs; c++)
    settle_channel(s, t, parameters, c, buffers[s->mean + c], buffers[s->variance + c]);
}

INLINE v relu_v(v x) { return (v)((vi)x & ~(vi)(x <= 0.f)); } /* NaN passes */

INLINE void normalise_with(const int relu, const Stage *s, const Statistics *t, const v *restrict x, v *restrict y) {
  const int n = pixels(s);
  for (int c = 0; c < s->outputs; c++, x += n, y += n) {
    const v scale = t->scale[c], shift = t->shift[c];
    for (int p = 0; p < n; p++) {
      v z = x[p] * scale + shift;
      y[p] = relu ? relu_v(z) : z;
    }
  }
}

NOINLINE void normalise(const Stage *s, const Statistics *t, const v *x, v *y, int relu) {
  if (relu) normalise_with(1, s, t, x, y);
  else normalise_with(0, s, t, x, y);
}

/* Adds the gradient of a sample's output to the two sums that the gradient of the input needs. */
NOINLINE void reduce(const Stage *s, const Statistics *t, const v *restrict x, const v *restrict g) {
  const int n = pixels(s);
  for (int c = 0; c < s->outputs; c++, x += n, g += n) {
    const v mean = t->mean[c];
    v value[4] = {{0}}, input[4] = {{0}};
    int p = 0;
    for (; p + 4 <= n; p += 4) UNROLL for (int q = 0; q < 4; q++) {
      value[q] += g[p + q];
      input[q] += g[p + q] * (x[p + q] - mean);
    }
    for (; p < n; p++) value[0] += g[p], input[0] += g[p] * (x[p] - mean);
    t->by_value[c] += (value[0] + value[1]) + (value[2] + value[3]);
    t->by_input[c] += (input[0] + input[1]) + (input[2] + input[3]);
  }
}

/* Once they are complete: the gradients of weight and bias, and the sums as shares of the gradient of the input. */
static void share_out(const Stage *s, const Statistics *t, v *gradients, int64_t images) {
  const float count = (float)(images * pixels(s));
  for (int c = 0; c < s->outputs; c++) {
    gradients[s->bias + c] += t->by_value[c];
    gradients[s->weight + c] += t->by_input[c] * t->inverse[c];
    t->by_input[c] *= t->scale[c] * t->inverse[c] * t->inverse[c] / -count;
    t->by_value[c] *= t->scale[c] / -count;
  }
}

/* Sets or adds to gx, the gradient of a sample's input. */
NOINLINE void spread_out(const Stage *s, const Statistics *t, const v *restrict x, const v *restrict g, v *restrict gx) {
  const int n = pixels(s);
  for (int c = 0; c < s->outputs; c++) {
    const v scale = t->scale[c], mean = t->mean[c], by_value = t->by_value[c], by_input = t->by_input[c];
    for (int p = 0; p < n; p++, x++, gx++, g++) {
      v own = *g * scale + ((*x - mean) * by_input + by_value);
      *gx = s->adds ? *gx + own : own;
    }
  }
}

NOINLINE void add(const v *restrict a, const v *restrict b, v *restrict y, int n, int relu) {
  if (relu)
    for (int i = 0; i < n; i++) y[i] = relu_v(a[i] + b[i]);
  else
    for (int i = 0; i < n; i++) y[i] = a[i] + b[i];
}

/* Sets or adds to the gradient of one branch of a sum; of images, which have none, nothing. */
NOINLINE void pass_on(const v *restrict g, v *restrict gx, int adds, int n) {
  if (!gx) return;
  if (adds)
    for (int i = 0; i < n; i++) gx[i] += g[i];
  else memcpy(gx, g, sizeof(v) * n);
}

