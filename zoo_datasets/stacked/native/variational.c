/* Variational dropout of weights: training with noise; zoo_datasets/variational.py has the source and the rule.
 *
 * By the local reparameterisation the output of a layer is drawn, not its weights: with the mean that the weights
 * give and the variance that squared inputs give with alpha w^2. Means and variances are two passes of the same
 * convolution, so its kernels serve both, and both gradients. Defined before: FLAT_STAGES(S), the stages without their pooling.
 */

#define DEFINE_FLAT(name, ...)                                                                                        \
  static const Stage name = {__VA_ARGS__};                                                                            \
  NOINLINE void name##_forward(const v *p, const v *x, v *y, int8_t *choice, v *scratch) {                            \
    stage_forward(&name, p, x, y, choice, scratch);                                                                   \
  }
FLAT_STAGES(DEFINE_FLAT)

#define LIST_FLAT(name, ...) {&name, name##_forward, 0},
static const Layer FLAT[] = {FLAT_STAGES(LIST_FLAT)};

enum { NOISE = 4 };

typedef struct {
  v *squares[DEPTH]; /* of the layer's inputs */
  v *ratio[DEPTH];   /* derivative of the output by the variance of the value pooled */
  v *mean, *variance, *noise, *by_variance, *by_square; /* of the layer at hand */
  v *variances, *gradients, *log_sigma2_gradients;      /* [PARAMETERS]: alpha w^2, its gradient, that of log sigma^2 */
} Noisy;

INLINE int inputs(const Stage *s) { return s->inputs * (s->height - 2 * s->padding) * (s->width - 2 * s->padding); }
INLINE int noisy_rows(const Stage *s) { return (s->height - s->kernel) / s->stride + 1; }
INLINE int noisy_columns(const Stage *s) { return (s->width - s->kernel) / s->stride + 1; }
INLINE int outputs(const Stage *s) { return s->outputs * noisy_rows(s) * noisy_columns(s); }
INLINE int is_linear(const Stage *s) { return s->height == 1 && s->width == 1 && s->kernel == 1; }
/* Weights, and the biases of convolutions, which lie behind them; of other stages there is nothing. */
INLINE int noisy_end(const Stage *s) {
  if (s->noise < 0) return s->weight;
  return is_linear(s) || !s->biased ? s->bias : s->bias + s->outputs;
}
INLINE float bound(const Stage *s) { return is_linear(s) ? LINEAR_BOUND : CONV_BOUND; }

/* Blocks of four words for a layer's outputs; streams.py says why a sample has a multiple of 16 numbers. */
INLINE int64_t noise_blocks(int count) { return (count + 15) / 16 * 4; }

static void lay_out_noise_of_sample(char **at, Noisy *n) {
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    n->squares[i] = (v *)carve(at, s->noise < 0 ? 0 : (int64_t)sizeof(v) * inputs(s));
    n->ratio[i] = (v *)carve(at, s->noise < 0 ? 0 : (int64_t)sizeof(v) * units(s));
  }
}

static void lay_out_noise(char **at, Noisy *n) {
  int most_inputs = 0, most_outputs = 0, most_units = 0;
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    most_inputs = MAX(most_inputs, inputs(s));
    most_outputs = MAX(most_outputs, outputs(s));
    most_units = MAX(most_units, units(s));
  }
  n->mean = (v *)carve(at, (int64_t)sizeof(v) * most_outputs);
  n->variance = (v *)carve(at, (int64_t)sizeof(v) * most_outputs);
  n->noise = (v *)carve(at, (int64_t)sizeof(v) * 4 * noise_blocks(most_outputs));
  n->by_variance = (v *)carve(at, (int64_t)sizeof(v) * most_units);
  n->by_square = (v *)carve(at, (int64_t)sizeof(v) * most_inputs);
  n->variances = (v *)carve(at, (int64_t)sizeof(v) * PARAMETERS);
  n->gradients = (v *)carve(at, (int64_t)sizeof(v) * PARAMETERS);
  n->log_sigma2_gradients = (v *)carve(at, (int64_t)sizeof(v) * PARAMETERS);
}

static Noisy *lay_out_noise_of_batch(char **at, int64_t images) {
  char *start = *at;
  Noisy first;
  lay_out_noise(at, &first);
  Noisy *all = (Noisy *)carve(at, sizeof(Noisy) * spaces(images));
  for (int64_t sample = 0; sample < spaces(images); sample++) {
    Noisy own = first;
    lay_out_noise_of_sample(at, &own);
    if (start) all[sample] = own;
  }
  return all;
}

INLINE v raw_log_alpha(const Job *job, int k) {
  v magnitude = (v)((vi)job->parameters[k] & 0x7FFFFFFF);
  return job->log_sigma2[k] - log_v(magnitude + EPSILON) * 2.f;
}

/* alpha w^2 of every weight; 0 where a weight has no noise. */
static void spread(const Job *job, const Noisy *n) {
  memset(n->variances, 0, sizeof(v) * PARAMETERS);
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    for (int k = s->weight; k < noisy_end(s); k++)
      n->variances[k] = exp_v(clamp(raw_log_alpha(job, k), bound(s))) * job->parameters[k] * job->parameters[k];
  }
}

/* From the gradients of alpha w^2 to those of log sigma^2 and w, and the divergence's added to both. */
static void gather_gradients(const Job *job, const Noisy *n, v *gradients) {
  const v weight = splat((float)job->kl_weight), one = splat(1.f);
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    for (int k = s->weight; k < noisy_end(s); k++) {
      v w = job->parameters[k], raw = raw_log_alpha(job, k), u = n->variances[k], g = n->gradients[k];
      vi inside = (vi)(raw <= bound(s)) & (vi)(raw >= -bound(s));
      v sigmoid = one / (one + exp_v(raw * -K3 - K2));
      v divergence = sigmoid * (sigmoid - 1.f) * (float)(K1 * K3) - 0.5f / (one + exp_v(raw));
      v slope = (v)((vi)(g * u + weight * divergence) & inside); /* by log alpha */
      v magnitude = (v)((vi)w & 0x7FFFFFFF);
      v sign = choose(w < 0.f, splat(-1.f), (v)((vi)one & (vi)(w > 0.f)));
      n->log_sigma2_gradients[k] = slope;
      /* d(alpha w^2) = 2 alpha w dw at a fixed alpha; alpha w is u / w, and 0 where w is. */
      v ratio = choose(magnitude > 0.f, u / w, splat(0.f));
      gradients[k] += g * ratio * 2.f - slope * sign * 2.f / (magnitude + EPSILON);
    }
  }
}

/* The noise of a layer's outputs before pooling. */
NOINLINE void draw(const Job *job, int layer, uint32_t step, int64_t sample, int count, v *noise) {
  const int64_t blocks = noise_blocks(count);
  for (int64_t block = 0; block < blocks; block++) {
    const uint32_t counter[4] = {sample * blocks + block, step, job->epoch, NOISE + 256 * layer};
    vu words[4];
    philox((const vu *)job->keys, counter, words);
    normal_pair(words, noise + 4 * block, noise + 4 * block + 1);
    normal_pair(words + 2, noise + 4 * block + 2, noise + 4 * block + 3);
  }
}

/* Draws the outputs of a stage and pools them: value, where it came from, and its derivative by the variance. */
NOINLINE void perturb(const Stage *s, const Noisy *n, v *restrict y, int8_t *restrict choice, v *restrict ratio) {
  const int R = s->pool, rows = s->rows / R, columns = s->columns / R;
  const int height = noisy_rows(s), width = noisy_columns(s);
  for (int o = 0; o < s->outputs; o++)
    for (int r = 0; r < rows; r++)
      for (int t = 0; t < columns; t++) {
        const int at = (o * rows + r) * columns + t;
        v best, picked, deviates;
        vi index = {0};
        for (int q = 0; q < R * R; q++) {
          /* FLAT's outputs have the rows and columns that are pooled; noise has all. */
          const int row = R * r + (q >> 1), column = R * t + (q & 1);
          const int from = (o * s->rows + row) * s->columns + column;
          v epsilon = n->noise[(o * height + row) * width + column], deviation = sqrt_v(n->variance[from] + EPSILON);
          v x = n->mean[from] + deviation * epsilon;
          if (q == 0) best = x, picked = epsilon, deviates = deviation;
          else {
            vi better = (vi)(x > best) | (vi)(x != x);
            best = choose(better, x, best);
            picked = choose(better, epsilon, picked);
            deviates = choose(better, deviation, deviates);
            index = choose_int(better, (vi){0} + q, index);
          }
        }
        y[at] = best;
        ratio[at] = picked / deviates * 0.5f;
        if (R > 1) *(vb *)(choice + at * LANES) = __builtin_convertvector(index, vb);
      }
}

static void forward_noisy(const Pass *p, int64_t sample, int from, int to) {
  const Job *job = p->job;
  const Workspace *w = space_of(p, sample);
  const Noisy *n = (const Noisy *)p->noise + (NORMS ? sample : 0);
  for (int i = from; i < to; i++) {
    const Stage *s = LAYERS[i].stage;
    const v *x = output_of(w, s->source);
    if (s->noise < 0) {
      forward_stages(job, w, 1, p->step, sample, i, i + 1);
      continue;
    }
    for (int k = 0; k < inputs(s); k++) n->squares[i][k] = x[k] * x[k];
    FLAT[i].forward(job->parameters, x, n->mean, 0, w->scratch);
    FLAT[i].forward(n->variances, n->squares[i], n->variance, 0, w->scratch);
    draw(job, s->noise, p->step, sample, outputs(s), n->noise);
    perturb(s, n, w->output[i], w->choice[i], n->ratio[i]);
    finish(job, s, w->output[i], w->slope[i], 1, p->step, sample);
  }
}

static void backward_noisy(const Pass *p, int64_t sample, int from, int to) {
  const Job *job = p->job;
  const Workspace *w = space_of(p, sample);
  const Noisy *n = (const Noisy *)p->noise + (NORMS ? sample : 0);
  for (int i = to - 1; i >= from; i--) {
    const Stage *s = LAYERS[i].stage;
    if (s->noise < 0) {
      backward_stages(job, w, i, i + 1);
      continue;
    }
    v *g = w->gradient[i], *gx = gradient_of(w, s->source);
    const v *x = output_of(w, s->source);
    through_activation(job, w, i);
    for (int u = 0; u < units(s); u++) n->by_variance[u] = g[u] * n->ratio[i][u];
    LAYERS[i].backward(job->parameters, w->gradients, x, g, w->choice[i], gx, w->scratch);
    if (s->adds) memset(n->by_square, 0, sizeof(v) * inputs(s)); /* which the backward pass then adds to */
    LAYERS[i].backward(n->variances, n->gradients, n->squares[i], n->by_variance, w->choice[i], n->by_square, w->scratch);
    if (gx)
      for (int k = 0; k < inputs(s); k++) gx[k] += x[k] * n->by_square[k] * 2.f;
  }
}

int64_t zoo_noise_size(int64_t images) {
  char *at = 0;
  lay_out_noise_of_batch(&at, images);
  return at - (char *)0;
}

/* As zoo_train, with noise; `workspace` has zoo_noise_size() bytes more. With GRADIENTS_ONLY the gradients of log
   sigma^2 go to `second`. */
void zoo_train_noisy(const Job *job) {
  char *at = job->workspace;
  const Workspace *spaces = lay_out_batch(&at, job->batch_size), w = *spaces;
  const Noisy *noise_of_all = lay_out_noise_of_batch(&at, job->batch_size), n = *noise_of_all;
  for (int64_t i = 0; i < job->steps; i++) {
    const int64_t step = job->first_step + i, start = i * job->batch_size;
    const Pass pass = {job, spaces, noise_of_all, start, MIN(job->batch_size, job->length - start), (uint32_t)step,
                       forward_noisy, backward_noisy};
    memset(w.gradients, 0, sizeof(v) * PARAMETERS);
    memset(n.gradients, 0, sizeof(v) * PARAMETERS);
    memset(n.log_sigma2_gradients, 0, sizeof(v) * PARAMETERS);
    spread(job, &n);
    pass_batch(&pass);
    gather_gradients(job, &n, w.gradients);
    if (job->clip) clip_gradients(job, w.gradients, n.log_sigma2_gradients);
    const Group weights = {job->parameters, job->first, job->second, w.gradients};
    const Group noise = {job->log_sigma2, job->log_sigma2_first, job->log_sigma2_second, n.log_sigma2_gradients};
    if (job->optimizer == GRADIENTS_ONLY) memcpy(job->second, n.log_sigma2_gradients, sizeof(v) * PARAMETERS);
    optimize(job, weights, i);
    if (job->optimizer != GRADIENTS_ONLY) optimize(job, noise, i);
  }
}

/* Standard normal numbers of a lane's stream, for tests: key [2], counter [4], four numbers. */
void zoo_normal(const uint32_t *key, const uint32_t *counter, float *numbers) {
  vu keys[2] = {(vu){0} + key[0], (vu){0} + key[1]}, words[4];
  v made[4];
  philox(keys, counter, words);
  normal_pair(words, made, made + 1);
  normal_pair(words + 2, made + 2, made + 3);
  for (int j = 0; j < 4; j++) numbers[j] = made[j][LANES - 1];
}
