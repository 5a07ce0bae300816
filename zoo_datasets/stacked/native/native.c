/* Trains and evaluates a block of members of one cohort, one member a vector lane.
 *
 * Every array is members-innermost: element i of lane l lies at [i][l]. No instruction mixes lanes, so a
 * member's result depends neither on its lane nor on what is in the others. A step goes through its batch
 * sample by sample, forward and backward, because the activations of one sample fit the second-level cache.
 * Only at a normalisation, which needs the statistics of the whole batch, all samples wait for each other.
 *
 * Compiled as one text: the definitions that zoo_datasets/stacked/codegen.py writes, layers.c (the
 * layers, forward and backward), math.c (elementary functions, random numbers), norm.c (normalisation), this file, and for
 * variational dropout variational.c.
 */

/* ---- one sample --------------------------------------------------------------------------------------- */

typedef struct {
  v *output[DEPTH], *slope[DEPTH], *gradient[DEPTH]; /* slope: derivative of the output by the value pooled */
  int8_t *choice[DEPTH];
  v *input;
  v *scratch, *gradients, *remade; /* of all samples, as are */
  Statistics *statistics; /* [DEPTH], of normalisations */
} Workspace;

typedef struct {
  v *parameters, *first, *second;                /* [PARAMETERS]; Adam's moments, or the one buffer of others in `first` */
  char *workspace;                               /* zoo_workspace_size() bytes */
  v *buffers;                                    /* [BUFFERS]: running statistics */
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
  const v *mask;                                 /* [PARAMETERS], or null: weights whose mask is 0 are held */
  v *log_sigma2, *log_sigma2_first, *log_sigma2_second; /* [PARAMETERS], of variational.c */
  double kl_weight;                              /* the divergence's share of the loss */
  const float *clip;                             /* [LANES], or null: the norm that gradients are scaled down to */
  const float *smoothing;                        /* [LANES], or null: the share of the labels that is spread */
  const float *points;                           /* of fields: [length, CHANNELS, PIXELS] */
  const v *targets;                              /* … [length, CLASSES, PIXELS] */
} Job;

static char *carve(char **at, int64_t bytes) {
  char *start = *at;
  *at += (bytes + 63) / 64 * 64;
  return start;
}

INLINE int activates(const Stage *s) { return s->activate || s->dropout >= 0 || s->sine != 0.f; }

/* What each sample has of its own; a network without normalisation needs it once. */
static void lay_out_sample(char **at, Workspace *space) {
  v *slots[SLOTS];
  int64_t sizes[SLOTS] = {0};
  space->input = (v *)carve(at, (int64_t)sizeof(v) * CHANNELS * PIXELS);
  for (int i = 0; i < DEPTH; i++) {
    const Stage *s = LAYERS[i].stage;
    const int64_t n = units(s);
    space->output[i] = s->remade ? space->remade : (v *)carve(at, n * sizeof(v));
    space->slope[i] = s->remade ? space->remade + REMADE : (v *)carve(at, activates(s) ? n * sizeof(v) : 0);
    space->choice[i] = (int8_t *)carve(at, s->pool > 1 || s->kind == MAXIMUM ? n * LANES : 0);
    sizes[s->slot] = MAX(sizes[s->slot], n);
  }
  for (int i = 0; i < SLOTS; i++) slots[i] = (v *)carve(at, sizes[i] * sizeof(v));
  for (int i = 0; i < DEPTH; i++) space->gradient[i] = slots[LAYERS[i].stage->slot];
}

/* What all samples share. */
static void lay_out_shared(char **at, Workspace *space) {
  space->scratch = (v *)carve(at, (int64_t)sizeof(v) * (STRIP + 2 * PADDED));
  space->gradients = (v *)carve(at, (int64_t)sizeof(v) * PARAMETERS);
  space->remade = (v *)carve(at, (int64_t)sizeof(v) * 2 * REMADE);
  space->statistics = (Statistics *)carve(at, sizeof(Statistics) * DEPTH);
}

static int64_t lay_out(char *start, Workspace *space) {
  char *at = start;
  lay_out_shared(&at, space);
  for (int i = 0; i < DEPTH; i++)
    if (LAYERS[i].stage->kind == NORM) {
      v *numbers = (v *)carve(&at, (int64_t)sizeof(v) * STATISTICS * LAYERS[i].stage->outputs);
      if (start) space->statistics[i] = statistics_at(numbers, LAYERS[i].stage->outputs);
    }
  lay_out_sample(&at, space);
  return at - start;
}

/* The workspaces of a batch: one for all samples, or where there is normalisation one for each. */
INLINE int64_t spaces(int64_t images) { return NORMS ? images : 1; }

static Workspace *lay_out_batch(char **at, int64_t images) {
  Workspace first;
  char *start = *at;
  *at += lay_out(start, &first);
  Workspace *all = (Workspace *)carve(at, sizeof(Workspace) * spaces(images));
  for (int64_t sample = 0; sample < spaces(images); sample++) {
    Workspace own = first;
    if (sample) lay_out_sample(at, &own);
    if (start) all[sample] = own;
  }
  return all;
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
    case GELU: activate_with(GELU, y, d, n); break;
    case SILU: activate_with(SILU, y, d, n); break;
    case LEAKY_RELU: activate_with(LEAKY_RELU, y, d, n); break;
    case ELU: activate_with(ELU, y, d, n); break;
    case SELU: activate_with(SELU, y, d, n); break;
    default: activate_with(NONE, y, d, n);
  }
}

NOINLINE void near_sines(const float omega, v *y, v *d, int n) {
  for (int i = 0; i < n; i++) {
    v sine, cosine;
    sine_v(y[i] * omega, &sine, &cosine);
    y[i] = sine;
    d[i] = cosine * omega;
  }
}

/* y becomes sin(omega y), d its derivative by y; lanes beyond the bound take the C library's functions. */
NOINLINE void sines(const float omega, v *y, v *d, int n) {
  vi beyond = {0};
  for (int i = 0; i < n; i++) beyond |= (vi)((v)((vi)(y[i] * omega) & 0x7FFFFFFF) > SINE_BOUND);
  int any = 0;
  for (int l = 0; l < LANES; l++) any |= beyond[l];
  if (!any) {
    near_sines(omega, y, d, n);
    return;
  }
  for (int i = 0; i < n; i++) {
    const v x = y[i] * omega;
    near_sines(omega, y + i, d + i, 1);
    for (int l = 0; l < LANES; l++)
      if (fabsf(x[l]) > SINE_BOUND) y[i][l] = sinf(x[l]), d[i][l] = cosf(x[l]) * omega;
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
    UNROLL for (int j = 0; j < 4; j++) {
      const int64_t i = 4 * block + j - start;
      if (i >= 0 && i < n) {
        v factor = (v)((vi)scale & (vi)(words[j] >= *threshold));
        y[i] *= factor;
        d[i] *= factor;
      }
    }
  }
}

INLINE int activation_of(const Job *job, const Stage *s) {
  return s->activate == MEMBERS ? job->activation : s->activate - FIRST_OWN;
}

/* Whether a stage ends in a ReLU, whose output says where its slope is 0, so that no slope is kept; only in networks
   with normalisation, which keep much. */
INLINE int ends_in_relu(const Job *job, const Stage *s) {
  return NORMS && s->activate && activation_of(job, s) == RELU && !(s->dropout >= 0 && job->dropout);
}

/* Activation and dropout behind a layer: y becomes the stage's output, d its derivative by the value pooled. */
static void finish(const Job *job, const Stage *s, v *y, v *d, int training, uint32_t step, int64_t sample) {
  if (s->sine != 0.f) {
    sines(s->sine, y, d, units(s));
  } else if (ends_in_relu(job, s)) {
    for (int u = 0; u < units(s); u++) y[u] = relu_v(y[u]);
    return;
  } else if (s->activate) activate(activation_of(job, s), y, d, units(s));
  else if (s->dropout >= 0)
    for (int u = 0; u < units(s); u++) d[u] = splat(1.f);
  if (training && s->dropout >= 0 && job->dropout) drop(job, s, step, sample, y, d, units(s));
  if (s->shift != 0.f)
    for (int u = 0; u < units(s); u++) y[u] += s->shift;
}

/* What stage `i` gives, or the images. */
INLINE const v *output_of(const Workspace *w, int i) { return i == IMAGES ? w->input : w->output[i]; }
INLINE v *gradient_of(const Workspace *w, int i) { return i == IMAGES ? 0 : w->gradient[i]; }

/* Stages `from` to `to` - 1. */
static void forward_stages(const Job *job, const Workspace *w, int training, uint32_t step, int64_t sample, int from, int to) {
  for (int i = from; i < to; i++) {
    const Stage *s = LAYERS[i].stage;
    const v *x = output_of(w, s->source);
    const int relu = ends_in_relu(job, s);
    if (s->kind == NORM) normalise(s, &w->statistics[i], x, w->output[i], relu);
    else if (s->kind == SUM) add(x, output_of(w, s->other), w->output[i], units(s), relu);
    else LAYERS[i].forward(job->parameters, x, w->output[i], w->choice[i], w->scratch);
    if (!relu || (s->kind != NORM && s->kind != SUM)) finish(job, s, w->output[i], w->slope[i], training, step, sample);
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
  if (job->smoothing) {
    const v smoothing = *(const v *)job->smoothing, spread = smoothing / (float)CLASSES;
    for (int c = 0; c < CLASSES; c++) {
      v target = (v)((vi)(1.f - smoothing) & (vi)(labels == c)) + spread;
      gradient[c] = (gradient[c] / sum - target) * share;
    }
    return;
  }
  for (int c = 0; c < CLASSES; c++) {
    v target = (v)((vi)splat(1.f) & (vi)(labels == c));
    gradient[c] = (gradient[c] / sum - target) * share;
  }
}

/* The gradient of what stage `i` gives becomes that of the value before activation and dropout. */
INLINE void through_activation(const Job *job, const Workspace *w, int i) {
  const Stage *s = LAYERS[i].stage;
  v *restrict g = w->gradient[i];
  const v *restrict y = w->output[i], *restrict slope = w->slope[i];
  if (ends_in_relu(job, s))
    for (int u = 0; u < units(s); u++) g[u] = (v)((vi)g[u] & ~(vi)(y[u] <= 0.f));
  else if (activates(s))
    for (int u = 0; u < units(s); u++) g[u] *= slope[u];
}

/* Of a sum, to both of its branches; of a normalisation into its sums, which are all that can be known before the
   other samples; returns whether it was one of these. */
static int backward_without_weights(const Workspace *w, int i) {
  const Stage *s = LAYERS[i].stage;
  if (s->kind == SUM) {
    pass_on(w->gradient[i], gradient_of(w, s->source), s->adds, units(s));
    pass_on(w->gradient[i], gradient_of(w, s->other), s->adds_other, units(s));
  } else if (s->kind == NORM) reduce(s, &w->statistics[i], output_of(w, s->source), w->gradient[i]);
  return s->kind == SUM || s->kind == NORM;
}

/* Stages `to` - 1 down to `from`. */
static void backward_stages(const Job *job, const Workspace *w, int from, int to) {
  for (int i = to - 1; i >= from; i--) {
    const Stage *s = LAYERS[i].stage;
    through_activation(job, w, i);
    if (backward_without_weights(w, i)) continue;
    LAYERS[i].backward(job->parameters, w->gradients, output_of(w, s->source), w->gradient[i], w->choice[i],
                       gradient_of(w, s->source), w->scratch);
  }
}

/* ---- a batch ------------------------------------------------------------------------------------------ */

/* A step through a batch; `forward` and `backward` compute some stages of a sample. */
typedef struct Pass {
  const Job *job;
  const Workspace *spaces;
  const void *noise; /* of variational.c */
  int64_t start, images;
  uint32_t step;
  void (*forward)(const struct Pass *, int64_t sample, int from, int to);
  void (*backward)(const struct Pass *, int64_t sample, int from, int to);
} Pass;

INLINE const Workspace *space_of(const Pass *p, int64_t sample) { return p->spaces + (NORMS ? sample : 0); }

static void plain_forward(const Pass *p, int64_t sample, int from, int to) {
  forward_stages(p->job, space_of(p, sample), 1, p->step, sample, from, to);
}

static void plain_backward(const Pass *p, int64_t sample, int from, int to) {
  backward_stages(p->job, space_of(p, sample), from, to);
}

static void loss_of(const Pass *p, int64_t sample, vi labels) {
  const Workspace *w = space_of(p, sample);
  cross_entropy(p->job, w->output[DEPTH - 1], labels, w->gradient[DEPTH - 1], p->images);
}

/* Adds what stage `source` gave for a sample to the statistics of the normalisations that read it. */
static void collect_for(const Workspace *w, int64_t sample, int source) {
  for (int i = 0; i < DEPTH; i++)
    if (LAYERS[i].stage->kind == NORM && LAYERS[i].stage->source == source)
      collect(LAYERS[i].stage, &w->statistics[i], output_of(w, source), sample);
}

INLINE int next_norm(int i) {
  while (i < DEPTH && LAYERS[i].stage->kind != NORM) i++;
  return i;
}

/* Layer by layer between normalisations, sample by sample there; backward likewise. */
static void normalised_batch(const Pass *p) {
  const Job *job = p->job;
  const Workspace *w = p->spaces;
  vi labels[p->images];
  for (int i = 0; i < DEPTH; i++)
    if (LAYERS[i].stage->kind == NORM) clear(LAYERS[i].stage, &w->statistics[i]);
  for (int64_t sample = 0; sample < p->images; sample++) {
    gather(job, p->start + sample, w[sample].input, labels + sample);
    collect_for(w + sample, sample, IMAGES);
  }
  for (int from = 0, to; from < DEPTH; from = to) {
    const Stage *s = LAYERS[from].stage;
    to = next_norm(from + 1);
    if (s->kind == NORM) settle(s, &w->statistics[from], job->parameters, job->buffers, p->images);
    for (int64_t sample = 0; sample < p->images; sample++)
      for (int i = from; i < to; i++) {
        p->forward(p, sample, i, i + 1);
        collect_for(w + sample, sample, i);
      }
  }
  for (int64_t sample = 0; sample < p->images; sample++) loss_of(p, sample, labels[sample]);
  for (int to = DEPTH, from; to > 0; to = from) {
    for (from = to - 1; from > 0 && LAYERS[from].stage->kind != NORM;) from--;
    for (int64_t sample = 0; sample < p->images; sample++) {
      const Workspace *own = w + sample;
      if (to < DEPTH) {
        const Stage *s = LAYERS[to].stage;
        v *gx = gradient_of(own, s->source);
        if (gx) spread_out(s, &w->statistics[to], output_of(own, s->source), own->gradient[to], gx);
      }
      if (LAYERS[from].stage->remade) p->forward(p, sample, from, from + 1);
      p->backward(p, sample, from, to);
    }
    if (LAYERS[from].stage->kind == NORM) share_out(LAYERS[from].stage, &w->statistics[from], w->gradients, p->images);
  }
}

static void pass_batch(const Pass *p) {
  if (NORMS) {
    normalised_batch(p);
    return;
  }
  for (int64_t sample = 0; sample < p->images; sample++) {
    vi labels;
    gather(p->job, p->start + sample, p->spaces->input, &labels);
    p->forward(p, sample, 0, DEPTH);
    loss_of(p, sample, labels);
    p->backward(p, sample, 0, DEPTH);
  }
}

/* ---- optimizers: torch.optim.Adam, AdamW, SGD (nesterov) and RMSprop ---------------------------------- */

typedef struct {
  v *parameters, *first, *second; /* [PARAMETERS]; Adam's moments, or the one buffer of others in `first` */
  const v *gradients;
} Group;

/* The decay of weights is added to the gradients, or decoupled, beside the step. */
INLINE void adam_with(const int decoupled, const Job *job, Group group, int64_t i) {
  const int64_t count = job->steps_before + i + 1;
  const double *lr = job->lr + i * LANES;
  const float first_weight = (float)(1 - 0.9), second_weight = (float)(1 - 0.999);
  const float scale = (float)(1 / sqrt(1 - pow(0.999, (double)count)));
  const v decay = ((const v *)job->weight_decay)[i];
  v step = splat(0.f), keep = splat(1.f);
  for (int l = 0; l < LANES; l++) {
    step[l] = (float)(lr[l] / (1 - pow(0.9, (double)count)));
    if (decoupled) keep[l] = (float)(1 - lr[l] * decay[l]);
  }
  for (int k = 0; k < PARAMETERS; k++) {
    v p = group.parameters[k], m = group.first[k], u = group.second[k];
    if (decoupled) p *= keep;
    v g = decoupled ? group.gradients[k] : group.gradients[k] + decay * p;
    m += (g - m) * first_weight;
    u = u * 0.999f + g * g * second_weight;
    group.parameters[k] = p - step * m / (sqrt_v(u) * scale + 1e-8f);
    group.first[k] = m;
    group.second[k] = u;
  }
}

INLINE v rates(const Job *job, int64_t i) {
  const double *lr = job->lr + i * LANES;
  v step = splat(0.f);
  for (int l = 0; l < LANES; l++) step[l] = (float)lr[l];
  return step;
}

INLINE void sgd_with(const int nesterov, const Job *job, Group group, int64_t i) {
  const v decay = ((const v *)job->weight_decay)[i], keep = ((const v *)job->momentum)[i], step = rates(job, i);
  for (int k = 0; k < PARAMETERS; k++) {
    v p = group.parameters[k], g = group.gradients[k] + decay * p;
    v buffer = group.first[k] * keep + g;
    group.parameters[k] = p - step * (nesterov ? g + keep * buffer : buffer);
    group.first[k] = buffer;
  }
}

NOINLINE void adam(const Job *job, Group group, int64_t i) { adam_with(0, job, group, i); }
NOINLINE void adamw(const Job *job, Group group, int64_t i) { adam_with(1, job, group, i); }
NOINLINE void sgd(const Job *job, Group group, int64_t i) { sgd_with(0, job, group, i); }
NOINLINE void sgd_nesterov(const Job *job, Group group, int64_t i) { sgd_with(1, job, group, i); }

NOINLINE void rmsprop(const Job *job, Group group, int64_t i) {
  const v decay = ((const v *)job->weight_decay)[i], step = rates(job, i);
  for (int k = 0; k < PARAMETERS; k++) {
    v p = group.parameters[k], g = group.gradients[k] + decay * p;
    v square = group.first[k] * 0.99f + g * g * (float)(1 - 0.99);
    group.parameters[k] = p - step * g / (sqrt_v(square) + 1e-8f);
    group.first[k] = square;
  }
}

/* One step; with GRADIENTS_ONLY the gradients are copied to `first`. */
static void optimize(const Job *job, Group group, int64_t i) {
  switch (job->optimizer) {
    case ADAM: adam(job, group, i); break;
    case SGD: sgd(job, group, i); break;
    case ADAMW: adamw(job, group, i); break;
    case SGD_NESTEROV: sgd_nesterov(job, group, i); break;
    case RMSPROP: rmsprop(job, group, i); break;
    default: memcpy(group.first, group.gradients, sizeof(v) * PARAMETERS);
  }
}

/* Adds the squares of the gradients of each lane; floats of a part at a time, so that small ones are not lost. */
static void add_squares(const v *gradients, double *sum) {
  for (int start = 0; start < PARAMETERS; start += 256) {
    v part = {0};
    for (int k = start; k < MIN(start + 256, PARAMETERS); k++) part += gradients[k] * gradients[k];
    for (int l = 0; l < LANES; l++) sum[l] += part[l];
  }
}

/* torch.nn.utils.clip_grad_norm_ of each lane, over one or two groups of gradients; `second` may be null. */
static void clip_gradients(const Job *job, v *first, v *second) {
  double sum[LANES] = {0};
  v scale = splat(1.f);
  add_squares(first, sum);
  if (second) add_squares(second, sum);
  for (int l = 0; l < LANES; l++) {
    const double share = job->clip[l] / (sqrt(sum[l]) + 1e-6);
    if (!(share >= 1)) scale[l] = (float)share; /* NaN stays NaN */
  }
  for (int k = 0; k < PARAMETERS; k++) first[k] *= scale;
  if (second)
    for (int k = 0; k < PARAMETERS; k++) second[k] *= scale;
}

/* ---- entry points ------------------------------------------------------------------------------------- */

int64_t zoo_job_size(void) { return sizeof(Job); }
int64_t zoo_parameters(void) { return PARAMETERS; }
int64_t zoo_workspace_size(int64_t images) {
  char *at = 0;
  lay_out_batch(&at, images);
  return at - (char *)0;
}

/* A walk through all samples of a batch misses most small pages; a hint, and nothing where the system has no others. */
void zoo_prefer_large_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  const int64_t page = 4096, skipped = -(int64_t)(uintptr_t)memory & (page - 1);
  if (bytes - skipped >= page) madvise((char *)memory + skipped, (size_t)((bytes - skipped) & -page), MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

/* Takes `steps` steps; with GRADIENTS_ONLY one, whose gradients are copied to `first`. */
void zoo_train(const Job *job) {
  char *at = job->workspace;
  const Workspace *spaces = lay_out_batch(&at, job->batch_size), w = *spaces;
  for (int64_t i = 0; i < job->steps; i++) {
    const int64_t step = job->first_step + i, start = i * job->batch_size;
    const Pass pass = {job, spaces, 0, start, MIN(job->batch_size, job->length - start), (uint32_t)step,
                       plain_forward, plain_backward};
    memset(w.gradients, 0, sizeof(v) * PARAMETERS);
    pass_batch(&pass);
    /* A held weight is zero, and so is its decay: without a gradient it stays. */
    if (job->mask)
      for (int k = 0; k < PARAMETERS; k++) w.gradients[k] *= job->mask[k];
    if (job->clip) clip_gradients(job, w.gradients, 0);
    optimize(job, (Group){job->parameters, job->first, job->second, w.gradients}, i);
  }
}

/* Adds up loss and correct predictions on `length` images in file order, which all lanes share. */
void zoo_evaluate(const Job *job) {
  Workspace w;
  lay_out(job->workspace, &w);
  for (int i = 0; i < DEPTH; i++)
    if (LAYERS[i].stage->kind == NORM) settle_running(LAYERS[i].stage, &w.statistics[i], job->parameters, job->buffers);
  for (int64_t i = 0; i < job->length; i++) {
    const uint8_t *image = job->images + i * CHANNELS * PIXELS;
    for (int c = 0; c < CHANNELS; c++)
      for (int p = c * PIXELS; p < (c + 1) * PIXELS; p++) w.input[p] = splat(job->normalised[256 * c + image[p]]);
    forward_stages(job, &w, 0, 0, 0, 0, DEPTH);
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
